// A tfyolo TFLite file (float32, --nms none) in a browser: LiteRT.js runs it, the decoder to copy reads its outputs.

import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { fromCandidates, placement } from "../decoders/decoder.mjs";

const $ = (id) => document.getElementById(id);
const canvas = $("canvas"), video = $("video");
let detector = null; // what load() gives
let runtime = null; // the promise of LiteRT.js's WebAssembly
let shown = null; // the image or video of the last detection

// --- the file ----------------------------------------------------------------------------------------------------

/** The files in the zip behind a TFLite file: {name: text}. bytes: Uint8Array. */
async function filesBehind(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length), files = {};
  let end = bytes.length - 22; // the end of its central directory, behind which only a comment may stand
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) throw new Error("no files behind the model: expected one that tfyolo has exported");
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left > 0; left--) {
    const [method, size] = [view.getUint16(at + 10, true), view.getUint32(at + 20, true)];
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const header = view.getUint32(at + 42, true);
    const start = header + 30 + view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
    let content = new Blob([bytes.subarray(start, start + size)]).stream();
    if (method === 8) content = content.pipeThrough(new DecompressionStream("deflate-raw"));
    else if (method !== 0) throw new Error(`the zip behind the model is packed by method ${method}`);
    const path = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + name));
    files[path] = await new Response(content).text();
    at += 46 + name + extra + comment;
  }
  return files;
}

/** Reads and compiles a TFLite file: {network, classes, size, fit, nms}. accelerator: "wasm" or "webgpu". */
async function load(file, accelerator) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const files = await filesBehind(bytes);
  if (!("tfyolo.json" in files)) throw new Error("no tfyolo.json behind the model: expected one of tfyolo's");
  const about = JSON.parse(files["tfyolo.json"]);
  if (about.export.nms !== "none") throw new Error(`expected a file of --nms none, received ${about.export.nms}`);
  const { input_size: size, preprocess: fit, postprocess } = JSON.parse(about.config).model;
  const { name, iou = 0.6, limit = 300, candidates_limit: candidatesLimit = 2000, ...others } = postprocess;
  delete others.score; // the page has its own
  if (name !== "nms" || Object.keys(others).length) {
    throw new Error(`the decoder knows plain NMS of each class, not ${JSON.stringify(postprocess)}`);
  }
  // The folder beside the package's code holds its WebAssembly. Threads need a page that is cross-origin isolated.
  const wasm = new URL("../wasm/", import.meta.resolve("@litertjs/core")).href;
  runtime ??= loadLiteRt(wasm, { threads: crossOriginIsolated });
  await runtime;
  const network = await loadAndCompile(bytes, { accelerator, gpuOptions: { precision: "fp32" } });
  const [input] = network.getInputDetails();
  if (input.dtype !== "float32" || input.shape[0] !== 1) {
    network.delete();
    throw new Error(`expected a file that takes one float32 image, received ${input.dtype}, ${input.shape[0]} images`);
  }
  const classes = files["labels.txt"].trimEnd().split("\n");
  return { network, classes, size, fit, nms: { iou, limit, candidatesLimit } };
}

// --- an image to the network's input -----------------------------------------------------------------------------

// What each fit does beside the placement, as in tfyolo/data/geometry.py: how grey the margins are; whether an image
// that is made much smaller is averaged, or only sampled; and how far it reaches beyond the middles of its outermost
// pixels. A canvas's own drawImage smooths otherwise.
const FITS = {
  letterbox: { grey: 114, averages: true, rim: 1 },
  letterbox_top_left: { grey: 114, averages: false, rim: 0.5 },
  stretch: { grey: 114, averages: false, rim: 0.5 },
  darknet: { grey: 127.5, averages: false, rim: 0 },
  darknet_letterbox: { grey: 127.5, averages: false, rim: 0 },
};

/** Pixels {data, width, height} of ImageData -> the network's input, Float32Array of h * w * 3, in 0..1. */
function prepare(pixels, [h, w], fit) {
  const { grey, averages, rim } = FITS[fit];
  let [scaleY, scaleX, top, left] = placement([pixels.height, pixels.width], [h, w], fit);
  let { data, width, height } = pixels, channels = 4;
  const factor = Math.floor(1 / Math.sqrt(scaleY * scaleX) + 1e-3);
  if (averages && factor > 1) {
    const small = [Math.max(Math.floor(height / factor), 1), Math.max(Math.floor(width / factor), 1)];
    data = averaged(pixels, small);
    channels = 3;
    scaleY *= height / small[0];
    scaleX *= width / small[1];
    [height, width] = small;
  }
  const input = new Float32Array(h * w * 3);
  // The pixels before and behind each place, and the share of the second one. Beyond its outermost pixels an image that
  // is averaged fades into the grey; another one goes on as it ends.
  const places = (count, scale, first, most) =>
    Array.from({ length: count }, (_, i) => {
      const exact = (i + 0.5 - first) / scale - 0.5, before = Math.floor(exact);
      const beyond = Math.max(-exact, exact - (most - 1)) * scale > rim * scale + 1e-3;
      return beyond ? null : [before, before + 1, exact - before];
    });
  const rows = places(h, scaleY, top, height), columns = places(w, scaleX, left, width);
  const inside = (i, most) => Math.min(Math.max(i, 0), most - 1);
  const at = (y, x, c) => {
    if (averages && (y < 0 || x < 0 || y >= height || x >= width)) return grey;
    return data[(inside(y, height) * width + inside(x, width)) * channels + c];
  };
  let next = 0;
  for (const row of rows) {
    for (const column of columns) {
      for (let c = 0; c < 3; c++, next++) {
        if (!row || !column) {
          input[next] = grey / 255;
          continue;
        }
        const [y0, y1, down] = row, [x0, x1, right] = column;
        const above = at(y0, x0, c) * (1 - right) + at(y0, x1, c) * right;
        const below = at(y1, x0, c) * (1 - right) + at(y1, x1, c) * right;
        input[next] = (above * (1 - down) + below * down) / 255;
      }
    }
  }
  return input;
}

/** An image made smaller, each pixel the mean of the area that it covers: Float32Array of h * w * 3. */
function averaged({ data, width, height }, [h, w]) {
  // Rows first, then columns: each source pixel counts by the part of it that lies in the target's.
  const reduce = (source, lines, from, to, lineStep, step, channels) => {
    const target = new Float32Array(lines * to * 3), ratio = from / to;
    for (let line = 0; line < lines; line++) {
      for (let i = 0; i < to; i++) {
        const start = i * ratio, stop = Math.min((i + 1) * ratio, from);
        for (let j = Math.floor(start); j < stop; j++) {
          const share = (Math.min(j + 1, stop) - Math.max(j, start)) / ratio;
          for (let c = 0; c < 3; c++) target[(line * to + i) * 3 + c] += share * source[line * lineStep + j * step + c];
        }
      }
    }
    return target;
  };
  const narrow = reduce(data, height, width, w, width * 4, 4); // [height, w, 3]
  const turned = reduce(narrow, w, height, h, 3, w * 3); // [w, h, 3]
  const small = new Float32Array(h * w * 3);
  for (let y = 0; y < h; y++) {
    for (let x = 0; x < w; x++) small.set(turned.subarray((x * h + y) * 3, (x * h + y) * 3 + 3), (y * w + x) * 3);
  }
  return small;
}

// --- detection ---------------------------------------------------------------------------------------------------

/** Detects in an ImageBitmap or a video's frame, and draws it: {boxes, scores, labels, ms}. */
async function detect(source) {
  const [height, width] = [source.videoHeight ?? source.height, source.videoWidth ?? source.width];
  const began = performance.now();
  [canvas.height, canvas.width] = [height, width];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0);
  const { network, size, fit, nms } = detector;
  const input = new Tensor(prepare(context.getImageData(0, 0, width, height), size, fit), [1, ...size, 3]);
  const prepared = performance.now();
  const outputs = await network.run({ images: input });
  const [boxes, scores] = await Promise.all([outputs.boxes.data(), outputs.scores.data()]);
  for (const tensor of [input, outputs.boxes, outputs.scores]) tensor.delete();
  const ran = performance.now();
  const found = fromCandidates(boxes, scores, size, [height, width], { fit, score: Number($("score").value), ...nms });
  const ms = [prepared - began, ran - prepared, performance.now() - ran];
  draw(context, found);
  say(`${found.boxes.length} found; ${ms.map((each) => each.toFixed(1)).join(" + ")} ms: image, network, decoder`);
  return (window.found = { ...found, names: found.labels.map((label) => detector.classes[label]), ms });
}

function draw(context, { boxes, scores, labels }) {
  const line = Math.max(2, canvas.width / 300), text = 6 * line;
  Object.assign(context, { lineWidth: line, font: `${text}px sans-serif`, textBaseline: "bottom" });
  boxes.forEach(([top, left, bottom, right], i) => {
    const caption = `${detector.classes[labels[i]]} ${scores[i].toFixed(2)}`, y = Math.max(top, text);
    context.strokeStyle = context.fillStyle = `hsl(${(labels[i] * 137) % 360} 80% 40%)`;
    context.strokeRect(left, top, right - left, bottom - top);
    context.fillRect(left, y - text, context.measureText(caption).width, text);
    context.fillStyle = "white";
    context.fillText(caption, left, y);
  });
}

// --- the page ----------------------------------------------------------------------------------------------------

function say(text, error = false) {
  $("status").textContent = text;
  $("status").className = error ? "error" : "";
}

/** One after the other: LiteRT.js runs one image at a time. What goes wrong is shown. */
let last = Promise.resolve();
function queue(work) {
  last = last.then(work).catch((error) => say(error.message, true));
  return last;
}

function loadChosen() {
  const file = $("model").files[0];
  if (!file) return;
  queue(async () => {
    say(`loading ${file.name}`);
    detector?.network.delete();
    detector = null;
    detector = await load(file, $("accelerator").value);
    const on = detector.network.options.accelerator;
    say(`${file.name}: ${detector.size.join(" x ")}, ${detector.classes.length} classes, on ${on}. Choose an image.`);
    if (shown) await detect(shown);
  });
}

$("model").onchange = $("accelerator").onchange = loadChosen;

$("image").onchange = () => {
  const file = $("image").files[0];
  if (!file) return;
  stopCamera();
  queue(async () => {
    shown = await createImageBitmap(file, { colorSpaceConversion: "none" }); // upright, by its EXIF orientation
    if (detector) await detect(shown);
  });
};

$("score").oninput = () => {
  $("score-shown").textContent = Number($("score").value).toFixed(2);
  if (detector && shown && shown !== video) queue(() => detect(shown));
};

$("camera").onclick = async () => {
  if (video.srcObject) return stopCamera();
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    await video.play();
    shown = video;
    $("camera").textContent = "stop the camera";
    nextFrame();
  } catch (error) {
    say(`the camera: ${error.message}`, true);
  }
};

function nextFrame() {
  if (!video.srcObject) return;
  if (detector) queue(() => video.srcObject && detect(video)).then(() => requestAnimationFrame(nextFrame));
  else requestAnimationFrame(nextFrame);
}

function stopCamera() {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = shown = null;
  $("camera").textContent = "start the camera";
}

// Last, because it takes its time: without an adapter there is nothing for WebGPU to run on.
$("accelerator").options[1].disabled = !(await navigator.gpu?.requestAdapter());
