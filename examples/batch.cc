// Images of several prompts, computed together: batch CHECKPOINT DIRECTORY PROMPT...
// Shows each step and writes a preview of every image after it; each image appears in DIRECTORY
// when it is decoded. Ctrl-C ends it between two blocks of a step.
#include <flux/flux.h>

#include <csignal>
#include <fstream>
#include <iostream>

namespace {

volatile std::sig_atomic_t interrupted = 0;

// A preview as a PPM file: a line of text, then the pixels as they are.
void write_preview(const flux::Preview& preview, const std::filesystem::path& file) {
  std::ofstream out(file, std::ios::binary);
  out << "P6 " << preview.width << " " << preview.height << " 255\n";
  out.write(reinterpret_cast<const char*>(preview.pixels.data()),
            static_cast<std::streamsize>(preview.pixels.size()));
}

void generate(const std::filesystem::path& checkpoint, const std::filesystem::path& directory,
              std::span<char*> prompts) {
  std::vector<flux::Request> requests;
  for (const char* prompt : prompts) {
    flux::Request& request = requests.emplace_back();
    request.prompt = prompt;
    request.seed = 7;
  }
  flux::Observer observer;
  observer.on_phase = [](std::string_view phase) { std::cerr << phase << "\n"; };
  observer.on_step = [](int done, int total) {
    std::cerr << "step " << done << " of " << total << "\n";
  };
  observer.preview_every = 1;
  observer.on_preview = [&](const flux::Preview& preview) {
    write_preview(preview, directory / ("preview_" + std::to_string(preview.image) + ".ppm"));
  };
  observer.on_image = [&](const flux::Image& image) {
    const std::string name = std::to_string(image.row) + ".jpg";
    image.write(directory / name);
    std::cout << name << ": " << *image.request.prompt << "\n";
  };
  observer.cancelled = [] { return interrupted != 0; };

  flux::Model model = flux::Model::open(checkpoint);
  model.load(observer);
  model.generate(requests, observer);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: batch CHECKPOINT DIRECTORY PROMPT...\n";
    return 2;
  }
  std::signal(SIGINT, [](int) { interrupted = 1; });
  try {
    generate(argv[1], argv[2], {argv + 3, static_cast<size_t>(argc) - 3});
  } catch (const flux::Error& error) {
    std::cerr << "batch: " << error.what() << "\n";
    return error.code() == flux::ErrorCode::kCancelled ? 130 : 1;
  }
}
