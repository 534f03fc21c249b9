// Checks a bundle and prints what it binds: check BUNDLE RUNTIME VERSION [CAPABILITY]
// A program of yours has runtime and version from TensorRT's NvInferVersion.h, and asks the device.

#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>

#include <trtpipe/bundle.hpp>

namespace {

std::string text(const trtpipe::Dims& dims) {
  std::string made;
  for (const auto size : dims) made += (made.empty() ? "" : "x") + std::to_string(size);
  return "[" + made + "]";
}

}  // namespace

int main(int count, char** words) {
  if (count < 4) {
    std::cerr << "usage: check BUNDLE RUNTIME VERSION [CAPABILITY]\n";
    return 2;
  }
  try {
    const trtpipe::Host host{words[2], words[3], count > 4 ? std::atoi(words[4]) : 0};
    const trtpipe::Bundle bundle = trtpipe::Bundle::open(words[1], host);
    std::cout << "plan " << bundle.plan().size() << " bytes, key " << bundle.key() << "\n";
    for (const auto& one : bundle.bindings()) {
      std::cout << (one.is_input ? "input " : "output ") << one.name << " " << one.dtype << " " << text(one.shape);
      for (const auto& range : one.profiles) std::cout << " " << text(range.min) << ".." << text(range.max);
      std::cout << "\n";
    }
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
