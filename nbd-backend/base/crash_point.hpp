// SPDX-License-Identifier: Apache-2.0
// Named instants at which a process of the test build dies as by kill -9.
//
// WEFT_CRASH_POINT("attach.after-record") is nothing in the product. In a build with -DWEFT_CRASH_POINTS the process
// kills itself with SIGKILL when the file that the environment variable WEFT_CRASH_FILE names holds exactly that name;
// the file is renamed to <file>.died first, so that one armed point kills one process once. Keep points off the paths
// that every request takes. tests/cluster/test_crash_points.py runs each point that the sources name.
//
// Any thread; async-signal-safe calls only, so that a point may stand anywhere.
#pragma once

#ifdef WEFT_CRASH_POINTS
namespace weft {
void crash_point(const char* name) noexcept;
/// From now on a point kills this process's parent, which takes this one along (PR_SET_PDEATHSIG). Not thread-safe.
void crash_of_parent() noexcept;
}  // namespace weft
#define WEFT_CRASH_OF_PARENT() ::weft::crash_of_parent()
#define WEFT_CRASH_POINT(name) ::weft::crash_point(name)
#define WEFT_CRASH_POINT_IF(condition, name) ((condition) ? ::weft::crash_point(name) : static_cast<void>(0))
#else
#define WEFT_CRASH_OF_PARENT() static_cast<void>(0)
#define WEFT_CRASH_POINT(name) static_cast<void>(0)
#define WEFT_CRASH_POINT_IF(condition, name) static_cast<void>(false && (condition))
#endif
