// Runs the artefact of this folder on ONNX Runtime: predict FILE.onnx THREADS (SHAPE INPUT.bin)...
// Each INPUT.bin has the raw values of one input, in order, and SHAPE is its shape, as in 1x3x224x224. The
// outputs, of float32, are written to output0.bin, output1.bin and so on.
#include <onnxruntime_cxx_api.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

static std::vector<int64_t> shape_of(const std::string& text) {
  std::vector<int64_t> shape;
  std::stringstream parts(text);
  for (std::string part; std::getline(parts, part, 'x');) shape.push_back(std::stoll(part));
  return shape;
}

static std::vector<char> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(std::string("cannot read ") + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

int main(int count, char** arguments) try {
  if (count < 5 || count % 2 == 0) {
    std::fprintf(stderr, "usage: predict FILE.onnx THREADS (SHAPE INPUT.bin)...\n");
    return 2;
  }
  Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "predict");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(std::stoi(arguments[2]));
  options.SetInterOpNumThreads(1);
  // This fusion is many times slower than what it fuses; predict.py leaves it out, too.
  options.AddConfigEntry("optimization.disable_specified_optimizers", "SkipLayerNormFusion");
  Ort::Session session(environment, arguments[1], options);
  Ort::AllocatorWithDefaultOptions allocator;
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);

  std::vector<std::vector<char>> buffers;
  std::vector<std::string> names;
  std::vector<Ort::Value> inputs;
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    const auto shape = shape_of(arguments[3 + 2 * i]);
    const auto type = session.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetElementType();
    buffers.push_back(read(arguments[4 + 2 * i]));
    names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    inputs.push_back(Ort::Value::CreateTensor(memory, buffers[i].data(), buffers[i].size(), shape.data(),
                                              shape.size(), type));
  }
  for (size_t i = 0; i < session.GetOutputCount(); ++i)
    names.emplace_back(session.GetOutputNameAllocated(i, allocator).get());
  std::vector<const char*> pointers;
  for (const auto& name : names) pointers.push_back(name.c_str());

  const auto outputs = session.Run(Ort::RunOptions{}, pointers.data(), inputs.data(), inputs.size(),
                                   pointers.data() + inputs.size(), session.GetOutputCount());
  for (size_t i = 0; i < outputs.size(); ++i) {
    const size_t values = outputs[i].GetTensorTypeAndShapeInfo().GetElementCount();
    std::ofstream("output" + std::to_string(i) + ".bin", std::ios::binary)
        .write(outputs[i].GetTensorData<char>(), values * sizeof(float));
    std::printf("%s: %zu values\n", pointers[inputs.size() + i], values);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
