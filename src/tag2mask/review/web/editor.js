// A mask that is painted on: strokes, steps back and forth. It knows nothing of the page around it.

const MOST_STEPS = 100;

export class Editor {
  constructor({ data, width, height }) {
    Object.assign(this, { data: data.slice(), width, height, undone: [], done: [], before: null, part: null });
  }

  begin() {
    this.before = this.data.slice();
    this.part = null;
  }

  // A round brush from one point to another, in pixels of the mask; returns the part that may have changed.
  line(from, to, radius, value) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(1, radius / 3)));
    let part = null;
    for (let step = 0; step <= steps; step += 1) {
      const share = step / steps;
      part = joined(part, this.dot(from.x + (to.x - from.x) * share, from.y + (to.y - from.y) * share, radius, value));
    }
    this.part = joined(this.part, part);
    return part;
  }

  dot(x, y, radius, value) {
    const [left, right] = [Math.max(0, Math.floor(x - radius)), Math.min(this.width, Math.ceil(x + radius) + 1)];
    const [top, bottom] = [Math.max(0, Math.floor(y - radius)), Math.min(this.height, Math.ceil(y + radius) + 1)];
    for (let row = top; row < bottom; row += 1) {
      const rest = radius * radius - (row + 0.5 - y) ** 2;
      if (rest < 0) continue;
      const half = Math.sqrt(rest);
      const start = Math.max(left, Math.ceil(x - half - 0.5));
      const end = Math.min(right, Math.floor(x + half - 0.5) + 1);
      if (end > start) this.data.fill(value, row * this.width + start, row * this.width + end);
    }
    return [left, top, Math.max(left, right), Math.max(top, bottom)];
  }

  // What hangs together by its sides with a point and has its value gets `value`.
  fill(x, y, value) {
    const { data } = this;
    const old = data[y * this.width + x];
    if (old !== value) this.spread(x, y, value, (place) => data[place] === old);
  }

  // What hangs together by its sides with a point and is as `alike` to it (0..255, as many as pixels) gets `value`.
  grow(x, y, value, alike, least) {
    this.spread(x, y, value, (place) => alike[place] >= least);
  }

  spread(x, y, value, belongs) {
    const { data, width, height } = this;
    const seen = new Uint8Array(data.length);
    const todo = [y * width + x];
    while (todo.length) {
      const place = todo.pop();
      if (seen[place] || !belongs(place)) continue;
      seen[place] = 1;
      data[place] = value;
      const column = place % width;
      if (column > 0) todo.push(place - 1);
      if (column < width - 1) todo.push(place + 1);
      if (place >= width) todo.push(place - width);
      if (place < width * (height - 1)) todo.push(place + width);
    }
    this.part = [0, 0, width, height];
  }

  // End a stroke; whether it changed anything.
  end() {
    const { before, part } = this;
    this.before = null;
    if (!before || !part) return false;
    const step = { part, old: cropped(before, this.width, part), now: cropped(this.data, this.width, part) };
    if (step.old.every((value, place) => value === step.now[place])) return false;
    this.done.push(step);
    if (this.done.length > MOST_STEPS) this.done.shift();
    this.undone = [];
    return true;
  }

  undo() { return this.move(this.done, this.undone, "old"); }

  // Undo the last step as if it had never been.
  forget() {
    if (this.undo()) this.undone.pop();
  }

  redo() { return this.move(this.undone, this.done, "now"); }

  move(from, to, which) {
    const step = from.pop();
    if (!step) return false;
    const [left, top, right, bottom] = step.part;
    for (let row = top; row < bottom; row += 1) {
      const start = (row - top) * (right - left);
      this.data.set(step[which].subarray(start, start + right - left), row * this.width + left);
    }
    to.push(step);
    return true;
  }
}

const joined = (one, other) => (one && other
  ? [Math.min(one[0], other[0]), Math.min(one[1], other[1]), Math.max(one[2], other[2]), Math.max(one[3], other[3])]
  : one ?? other);

const cropped = (data, width, [left, top, right, bottom]) => {
  const found = new Uint8Array((right - left) * (bottom - top));
  for (let row = top; row < bottom; row += 1) {
    found.set(data.subarray(row * width + left, row * width + right), (row - top) * (right - left));
  }
  return found;
};
