import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** Decodes the files of test_decoder_examples.py, and prints what it finds: label, score, top, left, bottom, right. */
final class Client {
  public static void main(String[] paths) throws Exception {
    for (String path : paths) {
      ByteBuffer bytes = ByteBuffer.wrap(Files.readAllBytes(Path.of(path))).order(ByteOrder.LITTLE_ENDIAN);
      StringBuilder line = new StringBuilder();
      for (byte each = bytes.get(); each != '\n'; each = bytes.get()) line.append((char) each);
      String[] head = line.toString().split(" ");
      int[] sizes = new int[7];
      for (int i = 0; i < 7; i++) sizes[i] = Integer.parseInt(head[2 + i]);
      int[] input = {sizes[3], sizes[4]}, image = {sizes[5], sizes[6]};
      Decoder decoder = new Decoder(input, image);
      decoder.fit = head[9];
      decoder.score = Float.parseFloat(head[10]);
      decoder.iou = Float.parseFloat(head[11]);
      decoder.limit = Integer.parseInt(head[12]);
      decoder.candidatesLimit = Integer.parseInt(head[13]);
      float[][][] arrays = new float[2][sizes[0]][];
      for (int a = 0; a < 2; a++) {
        float scale = Float.parseFloat(head[14 + 2 * a]);
        int zero = Integer.parseInt(head[15 + 2 * a]);
        for (float[] row : rows(arrays[a], sizes[1 + a])) {
          for (int i = 0; i < row.length; i++) {
            row[i] = switch (head[1]) {
              case "int8" -> Decoder.dequantized(bytes.get(), scale, zero);
              case "uint8" -> Decoder.dequantized(bytes.get() & 0xff, scale, zero);
              default -> bytes.getFloat();
            };
            if (a == 0 && !head[1].equals("float32") && head[0].equals("candidates")) row[i] *= input[i % 2];
          }
        }
      }
      boolean heads = head[0].equals("heads");
      var found = heads ? decoder.fromHeads(arrays[0], arrays[1]) : decoder.fromCandidates(arrays[0], arrays[1]);
      for (var each : found) {
        double[] box = each.box();
        System.out.println(
            each.label() + " " + each.score() + " " + box[0] + " " + box[1] + " " + box[2] + " " + box[3]);
      }
      System.out.println("end");
    }
  }

  private static float[][] rows(float[][] array, int side) {
    for (int i = 0; i < array.length; i++) array[i] = new float[side];
    return array;
  }
}
