// Checks a bundle that `trtpipe deploy` wrote, and hands out the bytes of its plan and what it binds.
//
// Header-only, C++17, the standard library alone. With the CUDA runtime's header at hand, `device_capability` asks a
// GPU. TensorRT itself is not used: call deserializeCudaEngine with `plan()`, after this has found no fault.
//
// Not checked here: the signature of bundle.json. Check it once, where the bundle arrives:
// trtpipe serve-check BUNDLE --trust NAME=KEY.

#ifndef TRTPIPE_BUNDLE_HPP
#define TRTPIPE_BUNDLE_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__has_include)
#if __has_include(<cuda_runtime_api.h>)
#include <cuda_runtime_api.h>
#define TRTPIPE_HAS_CUDA 1
#endif
#endif

namespace trtpipe {

// What is wrong with a bundle, with what was found and what was expected. Names in it are others' choice, so control
// characters, which a terminal would act on, are question marks.
class Error : public std::runtime_error {
 public:
  explicit Error(std::string text) : std::runtime_error(shown(std::move(text))) {}

 private:
  static std::string shown(std::string text) {
    for (char& c : text) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte < 0x20 || byte == 0x7f) c = '?';
    }
    return text;
  }
};

// SHA-256 (FIPS 180-4).
class Sha256 {
 public:
  void update(const unsigned char* data, std::size_t size) {
    total_ += size;
    while (size > 0) {
      const std::size_t room = block_.size() - held_;
      const std::size_t taken = size < room ? size : room;
      for (std::size_t i = 0; i < taken; ++i) block_[held_ + i] = data[i];
      held_ += taken;
      data += taken;
      size -= taken;
      if (held_ == block_.size()) {
        mix();
        held_ = 0;
      }
    }
  }

  // Gives 64 hex digits; the object is used up.
  std::string hex() {
    const std::uint64_t bits = total_ * 8;
    const unsigned char one = 0x80;
    update(&one, 1);
    const unsigned char zero = 0;
    while (held_ != 56) update(&zero, 1);
    for (int shift = 56; shift >= 0; shift -= 8) {
      const unsigned char byte = static_cast<unsigned char>(bits >> shift);
      update(&byte, 1);
    }
    static const char* const digits = "0123456789abcdef";
    std::string text;
    for (const std::uint32_t word : state_) {
      for (int shift = 28; shift >= 0; shift -= 4) text += digits[(word >> shift) & 15U];
    }
    return text;
  }

 private:
  static std::uint32_t turn(std::uint32_t x, int by) { return (x >> by) | (x << (32 - by)); }

  void mix() {
    static const std::array<std::uint32_t, 64> k = {
        0x428a2f98U, 0x71374491U, 0xb5c0fbcfU, 0xe9b5dba5U, 0x3956c25bU, 0x59f111f1U, 0x923f82a4U, 0xab1c5ed5U,
        0xd807aa98U, 0x12835b01U, 0x243185beU, 0x550c7dc3U, 0x72be5d74U, 0x80deb1feU, 0x9bdc06a7U, 0xc19bf174U,
        0xe49b69c1U, 0xefbe4786U, 0x0fc19dc6U, 0x240ca1ccU, 0x2de92c6fU, 0x4a7484aaU, 0x5cb0a9dcU, 0x76f988daU,
        0x983e5152U, 0xa831c66dU, 0xb00327c8U, 0xbf597fc7U, 0xc6e00bf3U, 0xd5a79147U, 0x06ca6351U, 0x14292967U,
        0x27b70a85U, 0x2e1b2138U, 0x4d2c6dfcU, 0x53380d13U, 0x650a7354U, 0x766a0abbU, 0x81c2c92eU, 0x92722c85U,
        0xa2bfe8a1U, 0xa81a664bU, 0xc24b8b70U, 0xc76c51a3U, 0xd192e819U, 0xd6990624U, 0xf40e3585U, 0x106aa070U,
        0x19a4c116U, 0x1e376c08U, 0x2748774cU, 0x34b0bcb5U, 0x391c0cb3U, 0x4ed8aa4aU, 0x5b9cca4fU, 0x682e6ff3U,
        0x748f82eeU, 0x78a5636fU, 0x84c87814U, 0x8cc70208U, 0x90befffaU, 0xa4506cebU, 0xbef9a3f7U, 0xc67178f2U};
    std::array<std::uint32_t, 64> w{};
    for (std::size_t i = 0; i < 16; ++i) {
      w[i] = (std::uint32_t{block_[4 * i]} << 24) | (std::uint32_t{block_[4 * i + 1]} << 16) |
             (std::uint32_t{block_[4 * i + 2]} << 8) | std::uint32_t{block_[4 * i + 3]};
    }
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t a = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >> 3);
      const std::uint32_t b = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    std::array<std::uint32_t, 8> s = state_;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t a = turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25);
      const std::uint32_t b = (s[4] & s[5]) ^ (~s[4] & s[6]);
      const std::uint32_t one = s[7] + a + b + k[i] + w[i];
      const std::uint32_t c = turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22);
      const std::uint32_t two = c + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {one + two, s[0], s[1], s[2], s[3] + one, s[4], s[5], s[6]};
    }
    for (std::size_t i = 0; i < 8; ++i) state_[i] += s[i];
  }

  std::array<std::uint32_t, 8> state_ = {0x6a09e667U, 0xbb67ae85U, 0x3c6ef372U, 0xa54ff53aU,
                                         0x510e527fU, 0x9b05688cU, 0x1f83d9abU, 0x5be0cd19U};
  std::array<unsigned char, 64> block_{};
  std::size_t held_ = 0;
  std::uint64_t total_ = 0;
};

// A JSON value (RFC 8259), as far as our documents need it.
class Json {
 public:
  enum class Kind { null, boolean, number, text, list, object };

  Kind kind = Kind::null;
  bool boolean = false;
  double number = 0;
  std::string text;
  std::vector<Json> list;
  std::map<std::string, Json> object;

  // Parses a whole text. `what` is how messages call it.
  static Json parse(const std::string& source, const std::string& what) {
    Parser parser{source, what};
    return parser.whole();
  }

  // Gives a field; `null` where there is none.
  const Json& operator[](const std::string& name) const {
    static const Json none;
    const auto found = object.find(name);
    return found == object.end() ? none : found->second;
  }

  bool is_null() const { return kind == Kind::null; }

 private:
  struct Parser {
    const std::string& source;
    const std::string& what;
    std::size_t at = 0;
    int depth = 0;

    [[noreturn]] void fail(const std::string& expected) const {
      throw Error(what + ": found no JSON at byte " + std::to_string(at) + ", expected " + expected);
    }

    void space() {
      while (at < source.size() &&
             (source[at] == ' ' || source[at] == '\n' || source[at] == '\t' || source[at] == '\r')) {
        ++at;
      }
    }

    bool take(char c) {
      space();
      if (at < source.size() && source[at] == c) {
        ++at;
        return true;
      }
      return false;
    }

    bool word(const char* letters) {
      const std::string wanted(letters);
      if (source.compare(at, wanted.size(), wanted) != 0) return false;
      at += wanted.size();
      return true;
    }

    Json whole() {
      Json made = value();
      space();
      if (at != source.size()) fail("the end");
      return made;
    }

    Json value() {
      if (++depth > 100) fail("at most 100 levels");
      space();
      Json made;
      if (at >= source.size()) fail("a value");
      const char c = source[at];
      if (c == '{') {
        made.kind = Kind::object;
        ++at;
        if (!take('}')) {
          do {
            space();
            std::string name = quoted();
            if (!take(':')) fail("a colon");
            if (!made.object.emplace(name, value()).second) fail("each name once");
          } while (take(','));
          if (!take('}')) fail("a comma or a closing brace");
        }
      } else if (c == '[') {
        made.kind = Kind::list;
        ++at;
        if (!take(']')) {
          do {
            made.list.push_back(value());
          } while (take(','));
          if (!take(']')) fail("a comma or a closing bracket");
        }
      } else if (c == '"') {
        made.kind = Kind::text;
        made.text = quoted();
      } else if (word("true")) {
        made.kind = Kind::boolean;
        made.boolean = true;
      } else if (word("false")) {
        made.kind = Kind::boolean;
      } else if (!word("null")) {
        made.kind = Kind::number;
        const std::size_t end = source.find_first_not_of("+-.0123456789eE", at);
        const std::string digits = source.substr(at, end == std::string::npos ? end : end - at);
        char* rest = nullptr;
        made.number = std::strtod(digits.c_str(), &rest);
        if (digits.empty() || *rest != '\0') fail("a value");
        at += digits.size();
      }
      --depth;
      return made;
    }

    std::string quoted() {
      if (at >= source.size() || source[at] != '"') fail("a text");
      ++at;
      std::string made;
      while (at < source.size() && source[at] != '"') {
        char c = source[at++];
        if (static_cast<unsigned char>(c) < 0x20) fail("no control characters");
        if (c != '\\') {
          made += c;
          continue;
        }
        if (at >= source.size()) fail("an escape");
        c = source[at++];
        static const std::string from = "\"\\/bfnrt";
        static const std::string to = "\"\\/\b\f\n\r\t";
        const std::size_t place = from.find(c);
        if (place != std::string::npos) {
          made += to[place];
        } else if (c == 'u') {
          std::uint32_t code = unit();
          if (code >= 0xd800 && code < 0xdc00 && word("\\u")) {
            const std::uint32_t low = unit();
            if (low < 0xdc00 || low > 0xdfff) fail("the second half of a character");
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
          }
          if (code >= 0xd800 && code < 0xe000) fail("both halves of a character");
          encode(code, made);
        } else {
          fail("an escape");
        }
      }
      if (at >= source.size()) fail("a closing quote");
      ++at;
      return made;
    }

    std::uint32_t unit() {
      std::uint32_t code = 0;
      for (int i = 0; i < 4; ++i) {
        const char c = at < source.size() ? source[at] : '\0';
        const bool low = c >= 'a' && c <= 'f';
        const bool high = c >= 'A' && c <= 'F';
        if (!(c >= '0' && c <= '9') && !low && !high) fail("four hex digits");
        code = code * 16 + static_cast<std::uint32_t>(low ? c - 'a' + 10 : high ? c - 'A' + 10 : c - '0');
        ++at;
      }
      return code;
    }

    static void encode(std::uint32_t code, std::string& into) {
      const auto add = [&into](std::uint32_t byte) { into += static_cast<char>(static_cast<unsigned char>(byte)); };
      if (code < 0x80) {
        add(code);
      } else if (code < 0x800) {
        add(0xc0 | (code >> 6));
        add(0x80 | (code & 63));
      } else if (code < 0x10000) {
        add(0xe0 | (code >> 12));
        add(0x80 | ((code >> 6) & 63));
        add(0x80 | (code & 63));
      } else {
        add(0xf0 | (code >> 18));
        add(0x80 | ((code >> 12) & 63));
        add(0x80 | ((code >> 6) & 63));
        add(0x80 | (code & 63));
      }
    }
  };
};

using Dims = std::vector<std::int64_t>;

// The smallest, the best and the largest shape of an input.
struct Range {
  Dims min, opt, max;
};

// An input or an output. `dtype` is NumPy's word, such as float32; `shape` has -1 for dynamic axes. `profiles` has the
// range of an input in each optimisation profile; none where its shape is fixed.
struct Binding {
  std::string name;
  bool is_input = false;
  std::string dtype;
  Dims shape;
  std::vector<Range> profiles;
};

// What the program was built with, and the device that it runs on.
struct Host {
  std::string runtime;          // "tensorrt", "tensorrt_rtx" or "onnxruntime"
  std::string runtime_version;  // as many parts as are known: "10.16.1.11", or "10.16"
  int capability = 0;           // the device's compute capability, 89 for 8.9; 0: not asked
};

// A bundle whose files are those that were deployed, and that fits this host.
class Bundle {
 public:
  // Reads and checks a bundle; of a folder of versions, the one that `current` leads to. Throws Error.
  static Bundle open(const std::filesystem::path& given, const Host& host) {
    namespace fs = std::filesystem;
    fs::path folder = given;
    if (!fs::exists(folder / "bundle.json") && fs::exists(folder / "current" / "bundle.json")) folder /= "current";
    Bundle bundle;
    const Json said = Json::parse(read(folder / "bundle.json"), "bundle.json");
    format(said, "bundle.json");
    const Json& files = said["files"];
    if (files.kind != Json::Kind::object) throw Error("bundle.json: found no files, expected an object");
    if (files["manifest.json"].is_null()) throw Error("bundle.json: found no manifest.json among the files");
    const std::string text = checked(folder, "manifest.json", files["manifest.json"]);
    const Json manifest = Json::parse(text, "manifest.json");
    format(manifest, "manifest.json");
    fits(manifest, host);
    const std::string plan = manifest["plan"].text;
    if (files[plan].is_null()) throw Error("bundle.json: found no " + plan + " among the files, and that is the plan");
    for (const auto& [name, file] : files.object) {
      if (name == "manifest.json") continue;
      std::string content = checked(folder, name, file);
      if (name == plan) bundle.plan_ = std::move(content);
    }
    bundle.folder_ = folder;
    bundle.key_ = manifest["key"].text;
    bundle.version_compatible_ = manifest["version_compatible"].boolean;
    for (const Json& one : manifest["plugins"].list) {
      if (files[one.text].is_null()) throw Error("bundle.json: found no " + one.text + " among the files, and that is a plugin");
      bundle.plugins_.push_back(folder / one.text);
    }
    for (const Json& one : manifest["bindings"].list) bundle.bindings_.push_back(binding(one, manifest["profiles"]));
    return bundle;
  }

  // The bytes whose digest was checked. deserializeCudaEngine(plan().data(), plan().size()).
  const std::string& plan() const { return plan_; }
  const std::vector<Binding>& bindings() const { return bindings_; }
  const std::string& key() const { return key_; }
  const std::filesystem::path& folder() const { return folder_; }
  // Libraries of plugins. Load them before the plan.
  const std::vector<std::filesystem::path>& plugins() const { return plugins_; }
  // Whether the runtime must be told to allow the plan's own host code (IRuntime::setEngineHostCodeAllowed).
  bool version_compatible() const { return version_compatible_; }

 private:
  static std::string read(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw Error(path.string() + ": cannot be read, expected a bundle that trtpipe deploy wrote");
    std::string content;
    std::error_code unknown;
    const auto size = std::filesystem::file_size(path, unknown);
    if (!unknown) content.reserve(static_cast<std::size_t>(size));
    std::vector<char> part(1U << 20U);
    while (stream.read(part.data(), static_cast<std::streamsize>(part.size())) || stream.gcount() > 0) {
      content.append(part.data(), static_cast<std::size_t>(stream.gcount()));
    }
    if (stream.bad()) throw Error(path.string() + ": cannot be read to its end");
    return content;
  }

  static void format(const Json& document, const std::string& name) {
    const Json& number = document["format"];
    if (number.kind != Json::Kind::number || number.number != 1) {
      const std::string found = number.kind == Json::Kind::number ? std::to_string(static_cast<int>(number.number)) : "none";
      throw Error(name + ": found format " + found + ", expected 1");
    }
  }

  static std::string checked(const std::filesystem::path& folder, const std::string& name, const Json& wanted) {
    const std::filesystem::path path(name);
    if (path.is_absolute()) throw Error(name + ": found a path that leads out of the bundle");
    for (const auto& part : path) {
      if (part == "..") throw Error(name + ": found a path that leads out of the bundle");
    }
    std::string content = read(folder / path);
    Sha256 hash;
    hash.update(reinterpret_cast<const unsigned char*>(content.data()), content.size());
    const std::string found = hash.hex();
    if (found != wanted["sha256"].text) {
      throw Error(name + ": found SHA-256 " + found + ", expected " + wanted["sha256"].text);
    }
    return content;
  }

  static std::vector<long> parts(const std::string& version) {
    std::vector<long> numbers;
    for (std::size_t at = 0; at < version.size();) {
      const std::size_t end = version.find('.', at);
      numbers.push_back(std::strtol(version.substr(at, end - at).c_str(), nullptr, 10));
      if (end == std::string::npos) break;
      at = end + 1;
    }
    return numbers;
  }

  static void fits(const Json& manifest, const Host& host) {
    const std::string runtime = manifest["runtime"].text;
    if (runtime != host.runtime) throw Error("found an engine of " + runtime + ", expected one of " + host.runtime);
    const std::string version = manifest["runtime_version"].text;
    std::vector<long> built = parts(version);
    const std::vector<long> here = parts(host.runtime_version);
    if (here.empty()) throw Error("found no version of the runtime, expected the one that the program was built with");
    bool good = false;
    if (manifest["version_compatible"].boolean) {
      good = !built.empty() && built[0] == here[0] && !(here < built);
    } else {
      built.resize(here.size() < built.size() ? here.size() : built.size());
      good = built == here;
    }
    if (!good) {
      throw Error("found an engine of " + runtime + " " + version + ", expected one that " + host.runtime_version + " loads");
    }
    if (host.capability == 0) return;
    const Json& target = manifest["target"];
    const Json& many = target["compute_capabilities"];
    const std::string level = target["hardware_compatibility"].text;
    std::string said = target["compute_capability"].text;
    if (many.kind == Json::Kind::text) {
      said = many.text;
      good = host.capability >= 80;
    } else if (many.kind == Json::Kind::list) {
      good = false;
      for (const Json& one : many.list) {
        said += (said.empty() ? "" : ", ") + std::to_string(static_cast<int>(one.number));
        good = good || static_cast<int>(one.number) == host.capability;
      }
    } else if (!said.empty()) {
      const std::vector<long> numbers = parts(said);
      const long own = numbers[0] * 10 + (numbers.size() > 1 ? numbers[1] : 0);
      good = own == host.capability || (level == "ampere+" && own >= 80 && host.capability >= 80);
    }
    if (!good) {
      throw Error("found an engine for compute capability " + said + ", expected one for " +
                  std::to_string(host.capability / 10) + "." + std::to_string(host.capability % 10));
    }
  }

  static Dims dims(const Json& list) {
    Dims made;
    for (const Json& one : list.list) made.push_back(static_cast<std::int64_t>(one.number));
    return made;
  }

  static Binding binding(const Json& one, const Json& profiles) {
    Binding made;
    made.name = one["name"].text;
    made.is_input = one["mode"].text == "input";
    made.dtype = one["dtype"].text;
    made.shape = dims(one["shape"]);
    for (const Json& profile : profiles.list) {
      const Json& range = profile[made.name];
      if (!range.is_null()) made.profiles.push_back({dims(range["min"]), dims(range["opt"]), dims(range["max"])});
    }
    return made;
  }

  std::filesystem::path folder_;
  std::string plan_, key_;
  std::vector<Binding> bindings_;
  std::vector<std::filesystem::path> plugins_;
  bool version_compatible_ = false;
};

#ifdef TRTPIPE_HAS_CUDA
// The compute capability of a device, 89 for 8.9. Throws Error with CUDA's own words.
inline int device_capability(int device = 0) {
  int numbers[2] = {0, 0};
  const cudaDeviceAttr asked[2] = {cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor};
  for (int i = 0; i < 2; ++i) {
    const cudaError_t code = cudaDeviceGetAttribute(&numbers[i], asked[i], device);
    if (code != cudaSuccess) throw Error(std::string("the device cannot be asked: ") + cudaGetErrorString(code));
  }
  return numbers[0] * 10 + numbers[1];
}
#endif

}  // namespace trtpipe

#endif  // TRTPIPE_BUNDLE_HPP
