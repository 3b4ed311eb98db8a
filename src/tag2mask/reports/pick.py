"""Which images the gallery shows: the best, the worst, and a random draw that is even over the classes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from tag2mask.common.seeding import rng_for

RANDOM, BEST, WORST = "random", "best", "worst"


def choose(
    labels: Mapping[str, Sequence[str]],
    scores: Mapping[str, float],
    count: int,
    seed: int,
    part: str,
    first: Collection[str] = (),
) -> dict[str, dict[str, int]]:
    """Choose about `count` ids of `labels` (id -> tags); return id -> {group: rank in the group}.

    With scores, a third each are best, worst and random; an image can be in several groups. Without, all
    are random, drawn among the ids in `first` before the others. The draw depends on the ids, `seed` and `part`.
    """
    ranked = sorted((name for name in labels if name in scores), key=lambda name: (-scores[name], name))
    third = count // 3 if ranked else 0
    third = min(third, len(ranked) // 2)  # an image is not both best and worst
    drawn = even_draw({name: labels[name] for name in labels if name in first}, count - 2 * third, seed, part)
    others = {name: labels[name] for name in labels if name not in first}
    groups = {
        RANDOM: drawn + even_draw(others, count - 2 * third - len(drawn), seed, part),
        BEST: ranked[:third],
        WORST: ranked[::-1][:third],
    }
    chosen: dict[str, dict[str, int]] = {}
    for group, names in groups.items():
        for rank, name in enumerate(names):
            chosen.setdefault(name, {})[group] = rank
    return chosen


def even_draw(labels: Mapping[str, Sequence[str]], count: int, seed: int, part: str) -> list[str]:
    """Draw `count` ids at random, the classes taking turns, so that rare classes are seen too."""
    rng = rng_for(seed, "report", part)
    names = sorted(labels)
    rng.shuffle(names)
    classes = sorted({label for name in names for label in labels[name]}) or [""]
    rng.shuffle(classes)
    queues = {label: [name for name in names if label in labels[name]] for label in classes}
    queues[""] = [name for name in names if not labels[name]]
    drawn: dict[str, None] = {}
    while len(drawn) < min(count, len(names)):
        for queue in queues.values():
            while queue and queue[0] in drawn:
                queue.pop(0)
            if queue and len(drawn) < count:
                drawn[queue.pop(0)] = None
    return list(drawn)
