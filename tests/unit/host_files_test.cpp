// SPDX-License-Identifier: Apache-2.0
// atomic_file and the names of a volume's files.
#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "orchestrator/io/atomic_file.hpp"
#include "orchestrator/io/volume_process.hpp"

using namespace weft;

namespace {
struct scratch {
    std::filesystem::path path;
    scratch() {
        std::string name = (std::filesystem::temp_directory_path() / "weft-files-XXXXXX").string();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~scratch() { CHECK(remove_directory_tree(path).has_value()); }
    scratch(const scratch&) = delete;
    scratch& operator=(const scratch&) = delete;
};
const std::string id = "3f0a2c1e-0000-4000-8000-000000000001";
}  // namespace

TEST_CASE("atomic_file: replaces, keeps the mode and leaves no temporary name") {
    const scratch where;
    const auto file = where.path / "f";
    REQUIRE(write_file_atomically(file, "one").has_value());
    REQUIRE(write_file_atomically(file, "two", 0640).has_value());
    CHECK(**read_file(file) == "two");
    struct stat st {};
    REQUIRE(::stat(file.c_str(), &st) == 0);
    CHECK((st.st_mode & 0777) == 0640);
    CHECK(std::distance(std::filesystem::directory_iterator{where.path}, {}) == 1);
}

TEST_CASE("atomic_file: a failed write leaves the old content and nothing else") {
    const scratch where;
    const auto file = where.path / "f";
    REQUIRE(::mkdir(file.c_str(), 0700) == 0);  // rename onto a directory fails
    CHECK(write_file_atomically(file, "one").has_error());
    CHECK(std::distance(std::filesystem::directory_iterator{where.path}, {}) == 1);
    CHECK(write_file_atomically(where.path / "no" / "such", "x").error().code == errc::not_found);
}

TEST_CASE("atomic_file: absent is nullopt, too large is an error, a symlink is not followed") {
    const scratch where;
    CHECK_FALSE(read_file(where.path / "none")->has_value());
    REQUIRE(write_file_atomically(where.path / "f", std::string(101, 'x')).has_value());
    CHECK(read_file(where.path / "f", 100).error().code == errc::corrupt);
    CHECK((*read_file(where.path / "f", 101))->size() == 101);
    REQUIRE(::symlink("f", (where.path / "link").c_str()) == 0);
    CHECK(read_file(where.path / "link").has_error());
}

TEST_CASE("atomic_file: directories are made on the way; a file in the way is an error") {
    const scratch where;
    CHECK(make_directories(where.path / "a" / "b" / "c").has_value());
    CHECK(make_directories(where.path / "a" / "b" / "c").has_value());
    REQUIRE(write_file_atomically(where.path / "f", "").has_value());
    CHECK(make_directories(where.path / "f").has_error());
    CHECK(make_directories(where.path / "f" / "x").has_error());
}

TEST_CASE("atomic_file: a tree is removed with what is in it, symlinks are not followed") {
    const scratch where;
    REQUIRE(make_directories(where.path / "tree" / "x" / "y").has_value());
    REQUIRE(write_file_atomically(where.path / "outside", "stays").has_value());
    REQUIRE(write_file_atomically(where.path / "tree" / "x" / "f", "goes").has_value());
    REQUIRE(::symlink(where.path.c_str(), (where.path / "tree" / "up").c_str()) == 0);
    CHECK(remove_directory_tree(where.path / "tree").has_value());
    CHECK_FALSE(std::filesystem::exists(where.path / "tree"));
    CHECK(**read_file(where.path / "outside") == "stays");
    CHECK(remove_directory_tree(where.path / "tree").has_value());
}

TEST_CASE("volume files: only directories named by a UUID are volumes") {
    const scratch where;
    CHECK(list_volume_directories(where.path)->empty());
    REQUIRE(make_directories(where.path / "volumes" / id).has_value());
    REQUIRE(make_directories(where.path / "volumes" / "lost+found").has_value());
    REQUIRE(write_file_atomically(where.path / "volumes" / "3f0a2c1e-0000-4000-8000-000000000002", "").has_value());
    const auto found = list_volume_directories(where.path);
    REQUIRE(found.has_value());
    REQUIRE(found->size() == 1);
    CHECK(found->front() == volume_id{id});
    CHECK(remove_volume_directory(where.path, volume_id{id}).has_value());
    CHECK(list_volume_directories(where.path)->empty());
}

TEST_CASE("volume files: the URI escapes what a URI must not hold") {
    CHECK(volume_uri(paths_of("/run/weft", volume_id{id})) ==
          "nbd+unix:///volume?socket=/run/weft/volumes/" + id + "/nbd.sock");
    CHECK(volume_uri(paths_of("/a b&c#%", volume_id{id})) ==
          "nbd+unix:///volume?socket=/a%20b%26c%23%25/volumes/" + id + "/nbd.sock");
}
