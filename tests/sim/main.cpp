// SPDX-License-Identifier: Apache-2.0
// sim FIRST_SEED [COUNT] [STEPS] [BLOCK]: BLOCK's accesses are put into the trace. Runs seeds; on a violation prints
// the seed and its trace and exits with 1.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "tests/sim/world.hpp"

int main(int argc, char** argv) {
    const std::uint64_t first = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
    const std::uint64_t count = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
    const auto steps = static_cast<std::uint32_t>(argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 300);
    const std::uint64_t watched = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : weft::sim::world::no_block;
    std::uint64_t acknowledged = 0;
    for (std::uint64_t seed = first; seed < first + count; ++seed) {
        const std::size_t replicas = 1 + seed % 3;
        const auto min_replicas = static_cast<std::uint32_t>(seed % 7 == 0 && replicas > 1 ? 2 : 1);
        weft::sim::world world(seed, replicas, min_replicas, watched);
        try {
            world.run(steps);
        } catch (const std::exception& problem) {
            std::printf("%s\nseed %llu failed: %s\nreplay: make sim SEED=%llu\n", world.trace().c_str(),
                        static_cast<unsigned long long>(seed), problem.what(), static_cast<unsigned long long>(seed));
            return 1;
        }
        acknowledged += world.acknowledged();
        if (count == 1) std::printf("%s", world.trace().c_str());
    }
    std::printf("%llu seeds, %llu acknowledged requests, no violation\n", static_cast<unsigned long long>(count),
                static_cast<unsigned long long>(acknowledged));
    return 0;
}
