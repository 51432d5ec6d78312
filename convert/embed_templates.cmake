# Writes OUTPUT, a C++ file that holds the text of each template of FILES (a list, ';' or ',').
# Run by CMakeLists.txt at build time: the program needs no file of the source tree.
string(REPLACE "," ";" files "${FILES}")
set(entries "")
foreach(file IN LISTS files)
  get_filename_component(name "${file}" NAME)
  get_filename_component(folder "${file}" DIRECTORY)
  get_filename_component(folder "${folder}" NAME)
  file(READ "${file}" text)
  string(FIND "${text}" ")template\"" delimiter)
  if(NOT delimiter EQUAL -1)
    message(FATAL_ERROR "${file}: holds the end mark of a raw string")
  endif()
  string(APPEND entries "    {\"${folder}/${name}\", R\"template(${text})template\"},\n")
endforeach()
file(WRITE "${OUTPUT}.new" "// Made from convert/native/* and convert/python/* by convert/embed_templates.cmake.
#include \"convert/templates.h\"

namespace flux {

std::span<const Template> all_templates() {
  static constexpr Template kTemplates[] = {
${entries}  };
  return kTemplates;
}

}  // namespace flux
")
file(RENAME "${OUTPUT}.new" "${OUTPUT}")
