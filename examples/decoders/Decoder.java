import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;

/**
 * From a raw tfyolo file's outputs to boxes, with the JDK alone. Copy this file into your program (Apache-2.0).
 *
 * <p>fromCandidates reads a file of --nms none, fromHeads one of integer heads. Both return the detections, best first:
 * boxes in pixels of the photograph; a label is a line number of labels.txt.
 */
public final class Decoder {
  static final int[] STRIDES = {8, 16, 32}; // pixels of the input that a cell of each level covers
  static final int BINS = 16; // distances 0 .. 15, in cells, that each side of a box has logits for
  static final List<String> FITS =
      List.of("letterbox", "letterbox_top_left", "stretch", "darknet", "darknet_letterbox");

  /** An object: box is {top, left, bottom, right}. */
  public record Detection(double[] box, float score, int label) {}

  public String fit = "letterbox"; // how the photograph was brought to the input's size, see placement
  public float score = 0.25f; // the confidence threshold: detections score above it
  public float iou = 0.6f; // a box that overlaps a better one of its class by more than this is removed
  public int limit = 300; // the most detections
  public int candidatesLimit = 2000; // how many (box, class) pairs, those that score highest, enter
  private final int[] input, image;

  /** Sizes are {height, width}: of the network's input, and of the photograph as it is seen, turned upright. */
  public Decoder(int[] input, int[] image) {
    this.input = input;
    this.image = image;
  }

  /**
   * The detections of one image, from a file without NMS. boxes: [N][4], in pixels of the network's input; those of a
   * full-int8 file are 0..1: dequantize them, then multiply them by height, width, height, width of the input. scores:
   * [N][K] in 0..1.
   */
  public List<Detection> fromCandidates(float[][] boxes, float[][] scores) {
    double[] to = placement(image, input, fit);
    List<Detection> found = new ArrayList<>();
    for (Pair pair : nms(boxes, scores)) {
      // Back to the photograph, and cut to its edges. What lay wholly in the margins has no extent then.
      double[] box = new double[4];
      for (int i = 0; i < 4; i++) {
        box[i] = Math.min(Math.max((boxes[pair.row][i] - to[2 + i % 2]) / to[i % 2], 0), image[i % 2]);
      }
      if (box[2] > box[0] && box[3] > box[1]) found.add(new Detection(box, pair.score, pair.label));
    }
    return found;
  }

  /**
   * The detections of one image, from the heads' own outputs: YOLOv8's kind, without objectness. classLogits: [N][K];
   * the N cells are those of stride 8, row by row, then those of 16 and of 32. boxLogits: [N][64]: of the distances
   * from a cell's middle to the left, top, right and bottom side of its box, 16 logits each.
   */
  public List<Detection> fromHeads(float[][] classLogits, float[][] boxLogits) {
    int count = 0, row = 0;
    for (int stride : STRIDES) count += (input[0] / stride) * (input[1] / stride);
    if (boxLogits.length != count) throw new IllegalArgumentException("expected " + count + " rows for this input");
    float[][] boxes = new float[count][], scores = new float[count][];
    for (int stride : STRIDES) {
      int width = input[1] / stride, cells = (input[0] / stride) * width;
      for (int cell = 0; cell < cells; cell++, row++) {
        double y = cell / width + 0.5, x = cell % width + 0.5;
        float[] own = boxLogits[row];
        double[] edges = {y - distance(own, 1), x - distance(own, 0), y + distance(own, 3), x + distance(own, 2)};
        boxes[row] = new float[4];
        for (int i = 0; i < 4; i++) boxes[row][i] = (float) (edges[i] * stride);
        scores[row] = classLogits[row].clone();
        for (int k = 0; k < scores[row].length; k++) scores[row][k] = (float) (1 / (1 + Math.exp(-scores[row][k])));
      }
    }
    return fromCandidates(boxes, scores);
  }

  /** A distance in cells: the mean of a side's 16 bins under their softmax. */
  private static double distance(float[] logits, int side) {
    double most = Double.NEGATIVE_INFINITY, sum = 0, mean = 0;
    for (int bin = 0; bin < BINS; bin++) most = Math.max(most, logits[side * BINS + bin]);
    for (int bin = 0; bin < BINS; bin++) {
      double share = Math.exp(logits[side * BINS + bin] - most);
      sum += share;
      mean += bin * share;
    }
    return mean / sum;
  }

  /** The number that a value of an int8 output stands for, or of a uint8 one (value & 0xff); the file says both. */
  public static float dequantized(int value, float scale, int zeroPoint) {
    return (value - zeroPoint) * scale;
  }

  /** A (box, class) pair. best: the score of the box's best class. seen: of the box, what counts for its overlaps. */
  private record Pair(float score, float best, int row, int label, double[] seen) {}

  /** Greedy NMS of each class by itself, best first; a box may be detected as several classes. */
  private List<Pair> nms(float[][] boxes, float[][] scores) {
    List<Pair> pairs = new ArrayList<>(), kept = new ArrayList<>();
    for (int row = 0; row < boxes.length; row++) {
      float best = 0;
      for (float each : scores[row]) best = Math.max(best, each);
      if (!(best > score)) continue;
      double[] seen = new double[4]; // an overlap counts up to one side's length beyond the image: nobody sees more
      for (int i = 0; i < 4; i++) seen[i] = Math.min(Math.max(boxes[row][i], -input[i % 2]), 2 * input[i % 2]);
      for (int label = 0; label < scores[row].length; label++) {
        if (scores[row][label] > score) pairs.add(new Pair(scores[row][label], best, row, label, seen));
      }
    }
    // Of equal scores, first comes the box whose best class scores higher, then the one that stands first.
    Comparator<Pair> order = Comparator.comparingDouble(pair -> -pair.score);
    pairs.sort(order.thenComparingDouble(pair -> -pair.best)); // which leaves rows and labels in their order
    for (Pair pair : pairs.subList(0, Math.min(pairs.size(), candidatesLimit))) {
      if (kept.size() == limit) break;
      if (kept.stream().noneMatch(better -> better.label == pair.label && overlap(better.seen, pair.seen) > iou)) {
        kept.add(pair);
      }
    }
    return kept;
  }

  private static double overlap(double[] a, double[] b) { // the IoU
    double height = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), width = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
    double shared = Math.max(height, 0) * Math.max(width, 0);
    return shared > 0 ? shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared) : 0;
  }

  /**
   * Where a photograph lies on the input, {scaleY, scaleX, top, left}: its pixel (y, x) comes to (y * scaleY + top, x *
   * scaleX + left). fit: model.preprocess of the config in tfyolo.json.
   */
  static double[] placement(int[] image, int[] input, String fit) {
    double factor = Math.min((double) input[0] / image[0], (double) input[1] / image[1]);
    double[] scale = {factor, factor}, margin = {0, 0};
    if (!FITS.contains(fit)) throw new IllegalArgumentException("fit: expected one of " + FITS + ", received " + fit);
    boolean corners = fit.startsWith("darknet"); // middles of the corner pixels on each other, not their corners
    boolean boxed = fit.equals("letterbox_top_left") || fit.equals("darknet_letterbox"); // a whole number of pixels
    boolean wide = (long) input[1] * image[0] < (long) input[0] * image[1];
    for (int i = 0; i < 2; i++) {
      int inner = boxed && (i == 0) == wide ? (int) ((long) image[i] * input[1 - i] / image[1 - i]) : input[i];
      if (!fit.equals("letterbox")) scale[i] = (double) Math.max(inner, 1) / image[i];
      if (corners) scale[i] = image[i] > 1 ? Math.max(inner - 1, 1) / (image[i] - 1.0) : Math.max(inner, 1);
      if (corners) margin[i] = (input[i] - inner) / 2 + 0.5 - 0.5 * scale[i];
      if (fit.equals("letterbox")) margin[i] = (input[i] - image[i] * factor) / 2;
    }
    return new double[] {scale[0], scale[1], margin[0], margin[1]};
  }
}
