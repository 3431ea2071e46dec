#pragma once
// What passes each stream, from when it is made to when it ends: vectors for a kernel that is looked at alone.
//
// With ATTNC_RECORD=n the file that the environment variable ATTNC_RECORD_FILE names gets, for each stream in the order in which they end, a
// line "name tokens bytes" (bytes of a token) and the tokens as they lie in memory; of a name until that held n bytes or more.

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

namespace hls {
namespace sim {

class Record {
 public:
  explicit Record(const std::string& name, std::size_t bytes) : name_(name), bytes_(bytes), kept_(total()[name] < ATTNC_RECORD) {}
  void token(const void* value) {
    const unsigned char* first = static_cast<const unsigned char*>(value);
    if (kept_) tokens_.insert(tokens_.end(), first, first + bytes_);
  }
  ~Record() {
    if (!kept_) return;
    total()[name_] += tokens_.size();
    std::fprintf(file(), "%s %zu %zu\n", name_.c_str(), tokens_.size() / bytes_, bytes_);
    std::fwrite(tokens_.data(), 1, tokens_.size(), file());
  }

 private:
  static std::map<std::string, std::size_t>& total() {
    static std::map<std::string, std::size_t> table;
    return table;
  }
  static std::FILE* file() {
    static std::FILE* const opened = std::fopen(std::getenv("ATTNC_RECORD_FILE"), "wb");
    if (opened == nullptr) std::abort();
    return opened;
  }
  std::string name_;
  std::size_t bytes_;
  bool kept_;
  std::vector<unsigned char> tokens_;
};

}  // namespace sim
}  // namespace hls
