// From a raw tfyolo file's outputs to boxes, with C++17's standard library alone. #include a copy of it (Apache-2.0).
//     from_candidates(boxes, scores, count, classes, input, image, options)            a file of --nms none
//     from_heads(class_logits, box_logits, count, classes, input, image, options)      a file of integer heads
//
// Both return the detections, best first: boxes in pixels of the photograph; a label is a line number of labels.txt.

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace tfyolo {

using Box = std::array<double, 4>;  // top, left, bottom, right
struct Size { int height, width; };
struct Detection { Box box; float score; int label; };

struct Options {
  std::string fit = "letterbox";  // how the photograph was brought to the input's size, see placement()
  float score = 0.25f;            // the confidence threshold: detections score above it
  float iou = 0.6f;               // a box that overlaps a better one of its class by more than this is removed
  size_t limit = 300;             // the most detections
  size_t candidates_limit = 2000; // how many (box, class) pairs, those that score highest, enter
};

constexpr int STRIDES[] = {8, 16, 32};  // pixels of the input that a cell of each level covers
constexpr int BINS = 16;                // distances 0 .. 15, in cells, that each side of a box has logits for
struct Placement { double scale_y, scale_x, top, left; };

// Where a photograph lies on the network's input: its pixel (y, x) comes to (y * scale_y + top, x * scale_x + left).
// fit: model.preprocess of the config in tfyolo.json. "letterbox" keeps the aspect, in the middle of grey;
// "letterbox_top_left" keeps it in the corner; "stretch" does not keep it; "darknet" and "darknet_letterbox", of
// imported Darknet networks, bring the middles of the corner pixels onto each other.
inline Placement placement(Size image, Size input, const std::string& fit) {
  const long H = image.height, W = image.width, h = input.height, w = input.width;
  if (fit == "letterbox") {
    const double factor = std::min(double(h) / H, double(w) / W);
    return {factor, factor, (h - H * factor) / 2, (w - W * factor) / 2};
  }
  long inner_h = h, inner_w = w;
  if (fit == "letterbox_top_left" || fit == "darknet_letterbox") {  // sides of a whole number of pixels
    if (w * H < h * W) inner_h = H * w / W; else inner_w = W * h / H;
  }
  const double height = std::max(inner_h, 1L), width = std::max(inner_w, 1L);
  if (fit == "stretch" || fit == "letterbox_top_left") return {height / H, width / W, 0, 0};
  if (fit != "darknet" && fit != "darknet_letterbox") throw std::invalid_argument("no placement is known for " + fit);
  const double scale_y = H > 1 ? std::max(height - 1, 1.0) / (H - 1) : height;
  const double scale_x = W > 1 ? std::max(width - 1, 1.0) / (W - 1) : width;
  return {scale_y, scale_x, (h - inner_h) / 2 + 0.5 - 0.5 * scale_y, (w - inner_w) / 2 + 0.5 - 0.5 * scale_x};
}

// The number that an integer of an int8 or uint8 output stands for; the file says scale and zero point.
inline float dequantized(int value, float scale, int zero_point) { return (value - zero_point) * scale; }

// The IoU of two boxes.
inline double overlap(const Box& a, const Box& b) {
  const double height = std::min(a[2], b[2]) - std::max(a[0], b[0]);
  const double width = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  if (height <= 0 || width <= 0) return 0;
  const double shared = height * width;
  return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared);
}

// Greedy NMS of each class by itself; a box may be detected as several classes. Boxes stay in pixels of the input.
inline std::vector<Detection> nms(const float* boxes, const float* scores, size_t count, size_t classes, Size input,
                                  const Options& options) {
  struct Pair { float score, best; size_t row, label; Box seen; };
  const double sides[] = {double(input.height), double(input.width)};
  std::vector<Pair> pairs;
  for (size_t row = 0; row < count; row++) {
    const float* own = scores + row * classes;
    const float best = classes ? *std::max_element(own, own + classes) : 0;
    if (!(best > options.score)) continue;
    Box seen;  // an overlap counts up to one side's length beyond the image: nobody sees more of a box
    for (int i = 0; i < 4; i++) seen[i] = std::clamp<double>(boxes[4 * row + i], -sides[i % 2], 2 * sides[i % 2]);
    for (size_t label = 0; label < classes; label++)
      if (own[label] > options.score) pairs.push_back({own[label], best, row, label, seen});
  }
  // Best first. Of equal scores, first comes the box whose best class scores higher, then the one that stands first.
  std::sort(pairs.begin(), pairs.end(), [](const Pair& a, const Pair& b) {
    return std::tuple(-a.score, -a.best, a.row, a.label) < std::tuple(-b.score, -b.best, b.row, b.label);
  });
  if (pairs.size() > options.candidates_limit) pairs.resize(options.candidates_limit);
  std::vector<Pair> kept;
  std::vector<Detection> found;
  for (const Pair& pair : pairs) {
    if (kept.size() == options.limit) break;
    if (std::any_of(kept.begin(), kept.end(), [&](const Pair& better) {
          return better.label == pair.label && overlap(better.seen, pair.seen) > options.iou;
        })) continue;
    kept.push_back(pair);
    const float* box = boxes + 4 * pair.row;
    found.push_back({{box[0], box[1], box[2], box[3]}, pair.score, int(pair.label)});
  }
  return found;
}

// The detections of one image, from a file without NMS. boxes: count * 4, in pixels of the network's input; those of a
// full-int8 file are 0..1: dequantize them, then multiply them by height, width, height, width of the input. scores:
// count * classes, 0..1. input: of the network. image: of the photograph as it is seen, turned upright.
inline std::vector<Detection> from_candidates(const float* boxes, const float* scores, size_t count, size_t classes,
                                              Size input, Size image, const Options& options = {}) {
  const Placement to = placement(image, input, options.fit);
  std::vector<Detection> found;
  for (Detection each : nms(boxes, scores, count, classes, input, options)) {
    // Back to the photograph, and cut to its edges. What lay wholly in the margins has no extent then.
    Box& box = each.box;
    for (int i : {0, 2}) box[i] = std::clamp<double>((box[i] - to.top) / to.scale_y, 0, image.height);
    for (int i : {1, 3}) box[i] = std::clamp<double>((box[i] - to.left) / to.scale_x, 0, image.width);
    if (box[2] > box[0] && box[3] > box[1]) found.push_back(each);
  }
  return found;
}

// A distance in cells: the mean of its 16 bins under their softmax.
inline double distance(const float* logits) {
  double sum = 0, mean = 0, most = *std::max_element(logits, logits + BINS);
  for (int bin = 0; bin < BINS; bin++) {
    const double share = std::exp(logits[bin] - most);
    sum += share, mean += bin * share;
  }
  return mean / sum;
}

// The detections of one image, from the heads' own outputs: YOLOv8's kind, without objectness. class_logits: count *
// classes; the cells are those of stride 8, row by row, then those of 16 and of 32. box_logits: count * 64: of the
// distances from a cell's middle to the left, top, right and bottom side of its box, 16 logits each.
inline std::vector<Detection> from_heads(const float* class_logits, const float* box_logits, size_t count,
                                         size_t classes, Size input, Size image, const Options& options = {}) {
  std::vector<float> boxes, scores(count * classes);
  for (int stride : STRIDES)
    for (int y = 0; y < input.height / stride; y++)
      for (int x = 0; x < input.width / stride; x++) {
        if (boxes.size() == 4 * count) throw std::invalid_argument("the input has more cells than there are rows");
        const float* logits = box_logits + boxes.size() * BINS;
        const double cy = (y + 0.5) * stride, cx = (x + 0.5) * stride;
        const double top = distance(logits + BINS) * stride, bottom = distance(logits + 3 * BINS) * stride;
        const double left = distance(logits) * stride, right = distance(logits + 2 * BINS) * stride;
        for (double edge : {cy - top, cx - left, cy + bottom, cx + right}) boxes.push_back(edge);
      }
  if (boxes.size() != 4 * count) throw std::invalid_argument("the input has fewer cells than there are rows");
  for (size_t i = 0; i < scores.size(); i++) scores[i] = 1 / (1 + std::exp(-double(class_logits[i])));
  return from_candidates(boxes.data(), scores.data(), count, classes, input, image, options);
}

}  // namespace tfyolo
