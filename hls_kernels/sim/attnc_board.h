#pragma once
// The accelerator as a virtual board has it: it works on a file that holds the memory of the board, and on nothing else.
//
// serve(file, base): the file holds the bytes from address `base` on, and behind them, in a page of its own, the status register. Each line
// on stdin has the arguments of a run in their order, pointers as addresses, all decimal; when the run is over "done" is answered. Who
// goes to an address outside the memory ends the process, as it would hang the bus of a board.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace attnc {
namespace board {

static const std::uint64_t PAGE = 4096;
static const int BAD_FILE = 2;  // exit code

class Memory {
 public:
  Memory(const char* path, std::uint64_t base) : base_(base) {
    const int file = ::open(path, O_RDWR);
    struct stat status;
    if (file < 0 || ::fstat(file, &status) != 0 || static_cast<std::uint64_t>(status.st_size) < PAGE) std::exit(BAD_FILE);
    const std::size_t bytes = static_cast<std::size_t>(status.st_size);
    bytes_ = bytes - PAGE;
    void* const found = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (found == MAP_FAILED) std::exit(BAD_FILE);
    data_ = static_cast<unsigned char*>(found);
  }
  template <class T> T* at(std::uint64_t address) const {
    if (address < base_ || address - base_ >= bytes_ || (address - base_) % sizeof(T) != 0) return nullptr;  // whoever goes there ends
    return reinterpret_cast<T*>(data_ + (address - base_));
  }
  volatile std::uint64_t* status() const { return reinterpret_cast<volatile std::uint64_t*>(data_ + bytes_); }

 private:
  std::uint64_t base_, bytes_ = 0;
  unsigned char* data_ = nullptr;
};

template <class Run> int serve(int argc, char** argv, const Run& run) {
  if (argc != 2) return BAD_FILE;
  const Memory memory(argv[0], std::strtoull(argv[1], nullptr, 10));
  char* line = nullptr;
  std::size_t room = 0;
  while (::getline(&line, &room, stdin) > 0) {
    std::vector<std::uint64_t> given;
    char* end = line;
    for (const char* word = line; given.push_back(std::strtoull(word, &end, 10)), end != word; word = end) {}
    given.pop_back();  // what is not a number ends them
    run(memory, given);
    std::puts("done");
    std::fflush(stdout);
  }
  std::free(line);
  return 0;
}

}  // namespace board
}  // namespace attnc
