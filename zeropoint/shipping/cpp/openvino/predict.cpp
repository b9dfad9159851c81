// Runs the artefact of this folder on OpenVINO: predict FILE.xml THREADS (SHAPE INPUT.bin)...
// Each INPUT.bin has the raw values of one input, in order, and SHAPE is its shape, as in 1x3x224x224. The
// outputs are written to output0.bin, output1.bin and so on.
#include <openvino/openvino.hpp>

#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

static ov::Shape shape_of(const std::string& text) {
  ov::Shape shape;
  std::stringstream parts(text);
  for (std::string part; std::getline(parts, part, 'x');) shape.push_back(std::stoull(part));
  return shape;
}

int main(int count, char** arguments) try {
  if (count < 5 || count % 2 == 0) {
    std::fprintf(stderr, "usage: predict FILE.xml THREADS (SHAPE INPUT.bin)...\n");
    return 2;
  }
  ov::Core core;
  const auto model = core.read_model(arguments[1]);
  std::map<size_t, ov::PartialShape> shapes;
  for (size_t i = 0; i < model->inputs().size(); ++i) shapes[i] = shape_of(arguments[3 + 2 * i]);
  model->reshape(shapes);

  // OpenVINO takes bfloat16 by itself where the processor has it, and quantizes the inputs of integer weights.
  // manifest.json has the settings that the model was measured with, under engine.settings.
  const auto method = model->get_rt_info<std::string>("zeropoint", "method");
  auto compiled = core.compile_model(
      model, "CPU", ov::inference_num_threads(std::stoi(arguments[2])),
      ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
      ov::hint::inference_precision(method == "bf16" ? ov::element::bf16 : ov::element::f32),
      ov::hint::dynamic_quantization_group_size(method == "dynamic" ? 32 : 0));
  auto request = compiled.create_infer_request();

  for (size_t i = 0; i < compiled.inputs().size(); ++i) {
    ov::Tensor tensor(compiled.input(i).get_element_type(), compiled.input(i).get_shape());
    std::ifstream file(arguments[4 + 2 * i], std::ios::binary);
    if (!file.read(static_cast<char*>(tensor.data()), static_cast<std::streamsize>(tensor.get_byte_size())))
      throw std::runtime_error(std::string("cannot read all values of ") + arguments[4 + 2 * i]);
    request.set_input_tensor(i, tensor);
  }
  request.infer();
  for (size_t i = 0; i < compiled.outputs().size(); ++i) {
    const auto output = request.get_output_tensor(i);
    std::ofstream("output" + std::to_string(i) + ".bin", std::ios::binary)
        .write(static_cast<const char*>(output.data()), static_cast<std::streamsize>(output.get_byte_size()));
    std::printf("%s: %zu values\n", compiled.output(i).get_any_name().c_str(), output.get_size());
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 1;
}
