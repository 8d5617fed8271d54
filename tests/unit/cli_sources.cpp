// SPDX-License-Identifier: Apache-2.0
// The parts of `weft` below its main(): orchestrator/cli is a program and no library, so the unit tests compile them
// in.
#include "orchestrator/cli/command.cpp"
#include "orchestrator/cli/fields.cpp"
#include "orchestrator/cli/help.cpp"
#include "orchestrator/cli/progress.cpp"
#include "orchestrator/cli/render.cpp"
#include "orchestrator/cli/run.cpp"
#include "orchestrator/cli/text.cpp"
