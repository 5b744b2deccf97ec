// Decodes the files of test_decoder_examples.py, and prints what it finds: label, score, top, left, bottom, right.
#include "../../examples/decoders/decoder.cpp"

#include <cstdint>
#include <cstdio>
#include <fstream>

template <typename T>
std::vector<float> numbers(std::istream& file, size_t count, float scale, int zero_point, bool quantized) {
  std::vector<T> values(count);
  file.read(reinterpret_cast<char*>(values.data()), count * sizeof(T));
  std::vector<float> found(values.begin(), values.end());
  if (quantized)
    for (size_t i = 0; i < count; i++) found[i] = tfyolo::dequantized(int(values[i]), scale, zero_point);
  return found;
}

int main(int argc, char** argv) {
  for (int i = 1; i < argc; i++) {
    std::ifstream file(argv[i], std::ios::binary);
    std::string entry, dtype;
    size_t count, sides[2];
    tfyolo::Size input, image;
    tfyolo::Options options;
    float scales[2];
    int zeros[2];
    file >> entry >> dtype >> count >> sides[0] >> sides[1] >> input.height >> input.width >> image.height >> image.width;
    file >> options.fit >> options.score >> options.iou >> options.limit >> options.candidates_limit;
    file >> scales[0] >> zeros[0] >> scales[1] >> zeros[1];
    file.get();
    std::vector<float> arrays[2];
    for (int a = 0; a < 2; a++) {
      auto read = dtype == "int8" ? numbers<int8_t> : dtype == "uint8" ? numbers<uint8_t> : numbers<float>;
      arrays[a] = read(file, count * sides[a], scales[a], zeros[a], dtype != "float32");
    }
    const bool heads = entry == "heads";
    if (dtype != "float32" && !heads)
      for (size_t j = 0; j < arrays[0].size(); j++) arrays[0][j] *= j % 2 ? input.width : input.height;
    const auto decode = heads ? tfyolo::from_heads : tfyolo::from_candidates;
    const size_t classes = sides[heads ? 0 : 1];
    for (const auto& [box, score, label] :
         decode(arrays[0].data(), arrays[1].data(), count, classes, input, image, options))
      std::printf("%d %.9g %.17g %.17g %.17g %.17g\n", label, score, box[0], box[1], box[2], box[3]);
    std::puts("end");
  }
}
