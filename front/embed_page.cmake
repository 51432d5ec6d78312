# Writes OUTPUT, a C++ file that holds the page: FOLDER/index.html with the style and the scripts in it,
# and the policy that lets a browser use just these. Run by CMakeLists.txt at build time.
set(scripts client.js gallery.js page.js)
foreach(name index.html page.css ${scripts})
  file(READ "${FOLDER}/${name}" text_of_${name})
endforeach()

# Sets RESULT to the SHA-256 of TEXT in base64, as a Content-Security-Policy has it.
function(hash_of text result)
  set(digits "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
  string(SHA256 hash "${text}")
  set(encoded "")
  # Three hexadecimal digits are two of base64. The 64 ones are filled up with zeros.
  foreach(first RANGE 0 63 3)
    string(SUBSTRING "${hash}00" ${first} 3 three)
    math(EXPR high "0x${three} >> 6")
    math(EXPR low "0x${three} & 63")
    foreach(value ${high} ${low})
      string(SUBSTRING "${digits}" ${value} 1 digit)
      string(APPEND encoded "${digit}")
    endforeach()
  endforeach()
  string(SUBSTRING "${encoded}" 0 43 encoded)
  set(${result} "sha256-${encoded}=" PARENT_SCOPE)
endfunction()

hash_of("${text_of_page.css}" style)
set(script_hashes "")
foreach(name ${scripts})
  hash_of("${text_of_${name}}" script)
  string(APPEND script_hashes " '${script}'")
endforeach()
# Everything is in the page: it asks no other host for anything, and none may frame it.
string(CONCAT policy
       "default-src 'none'; script-src${script_hashes}; style-src '${style}'; connect-src 'self'; "
       "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")

set(text "${text_of_index.html}")
foreach(name page.css ${scripts})
  string(FIND "${text}" "@${name}@" place)
  if(place EQUAL -1)
    message(FATAL_ERROR "${FOLDER}/index.html: lacks the place of ${name}, @${name}@")
  endif()
  string(REPLACE "@${name}@" "${text_of_${name}}" text "${text}")
endforeach()
string(FIND "${text}" ")page\"" delimiter)
if(NOT delimiter EQUAL -1)
  message(FATAL_ERROR "${FOLDER}: holds the end mark of a raw string")
endif()
file(WRITE "${OUTPUT}.new" "// Made from front/page/* by front/embed_page.cmake.
#include \"front/page.h\"

namespace flux::front {

std::string_view page_html() {
  return R\"page(${text})page\";
}

std::string_view page_policy() {
  return \"${policy}\";
}

}  // namespace flux::front
")
file(RENAME "${OUTPUT}.new" "${OUTPUT}")
