// Decodes the files of test_decoder_examples.py, and prints what it finds: label, score, top, left, bottom, right.
import { readFileSync } from "node:fs";
import { dequantized, fromCandidates, fromHeads } from "../../examples/decoders/decoder.mjs";

const TYPES = { float32: Float32Array, int8: Int8Array, uint8: Uint8Array };

for (const path of process.argv.slice(2)) {
  const bytes = readFileSync(path), end = bytes.indexOf("\n");
  const [entry, dtype, ...rest] = bytes.subarray(0, end).toString().split(" ");
  const [count, first, second, h, w, height, width] = rest.slice(0, 7).map(Number);
  const [score, iou, limit, candidatesLimit, ...steps] = rest.slice(8).map(Number);
  const values = new TYPES[dtype](bytes.buffer.slice(bytes.byteOffset + end + 1, bytes.byteOffset + bytes.length));
  let arrays = [values.subarray(0, count * first), values.subarray(count * first, count * (first + second))];
  if (dtype !== "float32") {
    arrays = arrays.map((each, i) => dequantized(each, steps[2 * i], steps[2 * i + 1]));
    if (entry === "candidates") arrays[0] = arrays[0].map((value, i) => value * (i % 2 ? w : h));
  }
  const decode = entry === "heads" ? fromHeads : fromCandidates;
  const found = decode(...arrays, [h, w], [height, width], { fit: rest[7], score, iou, limit, candidatesLimit });
  found.boxes.forEach((box, i) => console.log([found.labels[i], found.scores[i], ...box].join(" ")));
  console.log("end");
}
