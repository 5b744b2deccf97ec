// From a raw tfyolo file's outputs to boxes, without packages. Copy this file into your program (Apache-2.0).
//
//     fromCandidates(boxes, scores, inputSize, imageSize, options)          a file of --nms none
//     fromHeads(classLogits, boxLogits, inputSize, imageSize, options)      a file of integer heads
//
// Arrays are typed and flat, as TFLite gives them. Boxes are [top, left, bottom, right]; sizes are [height, width].
// Both return {boxes: [[t, l, b, r], ...] in pixels of the photograph, scores: [...], labels: [...]}, best first; a
// label is a line number of labels.txt.

const STRIDES = [8, 16, 32]; // pixels of the input that a cell of each level covers
const BINS = 16; // distances 0 .. 15, in cells, that each side of a box has logits for

// fit: how the photograph was brought to the input's size, see placement(). score: the confidence threshold: detections
// score above it. iou: a box that overlaps a better one of its class by more than this is removed. limit: the most
// detections. candidatesLimit: how many (box, class) pairs, those that score highest, enter.
const DEFAULTS = { fit: "letterbox", score: 0.25, iou: 0.6, limit: 300, candidatesLimit: 2000 };

/**
 * The detections of one image, from a file without NMS.
 *
 * boxes: N * 4, in pixels of the network's input. Those of a full-int8 file are 0..1: dequantize them, then multiply
 * them by height, width, height, width of the input.
 * scores: N * K in 0..1, a row of K classes for each box.
 * inputSize: of the network's input. imageSize: of the photograph as it is seen, turned upright.
 */
export function fromCandidates(boxes, scores, inputSize, imageSize, options = {}) {
  const { fit, ...rest } = { ...DEFAULTS, ...options };
  const [scaleY, scaleX, y, x] = placement(imageSize, inputSize, fit);
  const [height, width] = imageSize;
  const cut = (value, most) => Math.min(Math.max(value, 0), most);
  const found = { boxes: [], scores: [], labels: [] };
  for (const { box, score, label } of nms(boxes, scores, inputSize, rest)) {
    // Back to the photograph, and cut to its edges. What lay wholly in the margins has no extent then.
    const top = cut((box[0] - y) / scaleY, height), left = cut((box[1] - x) / scaleX, width);
    const bottom = cut((box[2] - y) / scaleY, height), right = cut((box[3] - x) / scaleX, width);
    if (!(bottom > top && right > left)) continue;
    found.boxes.push([top, left, bottom, right]);
    found.scores.push(score);
    found.labels.push(label);
  }
  return found;
}

/**
 * The detections of one image, from the heads' own outputs: YOLOv8's kind, without objectness.
 *
 * classLogits: N * K. The N cells are those of stride 8, row by row, then those of 16 and of 32.
 * boxLogits: N * 64: of the distances from a cell's middle to the left, top, right and bottom side of its box, 16
 * logits each.
 */
export function fromHeads(classLogits, boxLogits, inputSize, imageSize, options = {}) {
  const grids = STRIDES.map((stride) => inputSize.map((side) => Math.floor(side / stride)));
  const cells = grids.reduce((sum, [height, width]) => sum + height * width, 0);
  if (boxLogits.length !== 4 * BINS * cells) throw new Error(`expected ${cells} rows for an input of ${inputSize}`);
  const boxes = new Float64Array(4 * cells);
  let row = 0;
  grids.forEach(([height, width], level) => {
    const stride = STRIDES[level];
    for (let cell = 0; cell < height * width; cell++, row++) {
      const y = (Math.floor(cell / width) + 0.5) * stride, x = ((cell % width) + 0.5) * stride;
      const distances = [0, 1, 2, 3].map((side) => stride * distance(boxLogits, (4 * row + side) * BINS));
      const [left, top, right, bottom] = distances;
      boxes.set([y - top, x - left, y + bottom, x + right], 4 * row);
    }
  });
  const scores = Float32Array.from(classLogits, (logit) => 1 / (1 + Math.exp(-logit)));
  return fromCandidates(boxes, scores, inputSize, imageSize, options);
}

/** A distance in cells: the mean of its 16 bins under the softmax of the logits from `start` on. */
function distance(logits, start) {
  const own = logits.slice(start, start + BINS), most = Math.max(...own);
  let sum = 0, mean = 0;
  own.forEach((logit, bin) => {
    const share = Math.exp(logit - most);
    sum += share;
    mean += share * bin;
  });
  return mean / sum;
}

/** The numbers that the integers of an int8 or uint8 output stand for; the file says scale and zero point. */
export function dequantized(values, scale, zeroPoint) {
  return Float32Array.from(values, (value) => (value - zeroPoint) * scale);
}

/** Greedy NMS of each class by itself; a box may be detected as several classes: [{box, score, label}], best first. */
function nms(boxes, scores, [height, width], { score, iou, limit, candidatesLimit }) {
  const count = boxes.length / 4, classes = count ? scores.length / count : 0;
  // An overlap counts up to one side's length beyond the image: nobody sees more of a box.
  const low = [-height, -width, -height, -width];
  const pairs = [], least = Math.fround(score); // scores are float32, too
  for (let row = 0; row < count; row++) {
    const own = scores.subarray(row * classes, (row + 1) * classes), box = boxes.subarray(row * 4, row * 4 + 4);
    const best = own.reduce((most, value) => Math.max(most, value), 0);
    if (!(best > least)) continue;
    const seen = low.map((value, i) => Math.min(Math.max(box[i], value), -2 * value));
    own.forEach((value, label) => value > least && pairs.push({ box, seen, score: value, label, best, row }));
  }
  // Best first. Of equal scores, first comes the box whose best class scores higher, then the one that stands first.
  pairs.sort((a, b) => b.score - a.score || b.best - a.best || a.row - b.row || a.label - b.label);
  const kept = [];
  for (const pair of pairs.slice(0, candidatesLimit)) {
    if (kept.length >= limit) break;
    if (!kept.some((better) => better.label === pair.label && overlap(better.seen, pair.seen) > iou)) kept.push(pair);
  }
  return kept;
}

/** The IoU of two boxes. */
function overlap(a, b) {
  const height = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), width = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (height <= 0 || width <= 0) return 0;
  const shared = height * width;
  return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared);
}

/**
 * Where a photograph lies on the network's input: [scaleY, scaleX, top, left]; its pixel (y, x) comes to
 * (y * scaleY + top, x * scaleX + left).
 *
 * fit: model.preprocess of the config in tfyolo.json. "letterbox" keeps the aspect, in the middle of grey;
 * "letterbox_top_left" keeps it in the corner; "stretch" does not keep it; "darknet" and "darknet_letterbox", of
 * imported Darknet networks, bring the middles of the corner pixels onto each other.
 */
export function placement([height, width], [h, w], fit) {
  if (fit === "letterbox") {
    const factor = Math.min(h / height, w / width);
    return [factor, factor, (h - height * factor) / 2, (w - width * factor) / 2];
  }
  let inner = [h, w];
  if (fit === "letterbox_top_left" || fit === "darknet_letterbox") { // sides of a whole number of pixels
    inner = w * height < h * width ? [Math.floor((height * w) / width), w] : [h, Math.floor((width * h) / height)];
  }
  if (fit === "stretch" || fit === "letterbox_top_left") {
    return [Math.max(inner[0], 1) / height, Math.max(inner[1], 1) / width, 0, 0];
  }
  if (fit !== "darknet" && fit !== "darknet_letterbox") throw new Error(`fit: no placement is known for "${fit}"`);
  const scale = (n, m) => (m > 1 ? Math.max(n - 1, 1) / (m - 1) : Math.max(n, 1));
  const scales = [scale(inner[0], height), scale(inner[1], width)];
  const margins = [Math.floor((h - inner[0]) / 2), Math.floor((w - inner[1]) / 2)];
  return [...scales, margins[0] + 0.5 - 0.5 * scales[0], margins[1] + 0.5 - 0.5 * scales[1]];
}
