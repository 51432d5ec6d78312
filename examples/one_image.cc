// One image of a checkpoint: one_image CHECKPOINT PROMPT FILE
#include <flux/flux.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: one_image CHECKPOINT PROMPT FILE.png\n";
    return 2;
  }
  try {
    flux::Model model = flux::Model::open(argv[1]);
    flux::Request request;
    request.prompt = argv[2];
    request.seed = 7;
    const flux::Result result = model.generate({&request, 1});
    result.images.front().write(argv[3]);
  } catch (const flux::Error& error) {
    std::cerr << "one_image: " << error.what() << "\n";
    return 1;
  }
}
