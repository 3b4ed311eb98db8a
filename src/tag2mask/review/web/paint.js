// Mask values to colours on a canvas.

const rgb = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
const packed = ([red, green, blue], alpha) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0; // little-endian

// A table of 256 pixel values: transparent for background and hidden classes, grey for unsure pixels.
export const palette = (classes, hidden = new Set()) => {
  const table = new Uint32Array(256);
  classes.forEach(({ name, colour }, index) => {
    if (!hidden.has(name)) table[index + 1] = packed(rgb(colour), 255);
  });
  table[255] = packed([150, 152, 160], 130);
  return table;
};

const into = (canvas, width, height, image, left = 0, top = 0) => {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, left, top);
};

export const clear = (canvas) => canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);

// The part (left, top, right, bottom) of labels; all of it without one.
export const paintMask = (canvas, { data, width, height }, table, part = [0, 0, width, height]) => {
  const [left, top, right, bottom] = part;
  const image = new ImageData(Math.max(1, right - left), Math.max(1, bottom - top));
  const out = new Uint32Array(image.data.buffer);
  for (let y = top, place = 0; y < bottom; y += 1) {
    for (let x = left, from = y * width + left; x < right; x += 1) out[place++] = table[data[from++]];
  }
  into(canvas, width, height, image, left, top);
};

// Pixels whose label differs from one `reach` away: an outline inside of each region.
export const paintOutline = (canvas, { data, width, height }, table) => {
  const image = new ImageData(width, height);
  const out = new Uint32Array(image.data.buffer);
  const reach = Math.max(1, Math.round(Math.max(width, height) / 400));
  for (let y = 0, place = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, place += 1) {
      const value = data[place];
      if (!table[value]) continue;
      const edge = x < reach || x >= width - reach || y < reach || y >= height - reach
        || data[place - reach] !== value || data[place + reach] !== value
        || data[place - reach * width] !== value || data[place + reach * width] !== value;
      if (edge) out[place] = table[value] | 0xff000000;
    }
  }
  into(canvas, width, height, image);
};

// (2, h, w): strongest class and its score. scores[value]: 0..1, above which a pixel has the class.
export const cutLabels = ({ data, width, height }, scores) => {
  const count = width * height;
  const labels = new Uint8Array(count);
  for (let place = 0; place < count; place += 1) {
    const value = data[place];
    if (value && data[count + place] > 255 * scores[value]) labels[place] = value;
  }
  return { data: labels, width, height };
};

// How strong the strongest class is, in its colour.
export const paintMap = (canvas, { data, width, height }, table) => {
  const image = new ImageData(width, height);
  const out = new Uint32Array(image.data.buffer);
  const count = width * height;
  for (let place = 0; place < count; place += 1) {
    const colour = table[data[place]];
    if (colour) out[place] = ((colour & 0x00ffffff) | (data[count + place] << 24)) >>> 0;
  }
  into(canvas, width, height, image);
};
