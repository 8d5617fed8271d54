# SPDX-License-Identifier: Apache-2.0
"""From rounds to a table. A ratio is the median of the rounds' own ratios: what disturbs the machine for longer than a
round disturbs both sides of it alike, and cancels out."""
from statistics import median

REQUIRED = 1.0  # of the quorum driver's rate, every cell at two replicas
AIM = 2.0
RESYNC_REQUIRED = 0.8  # of nbdcopy's rate between the same two servers


def summarise(rounds):
    """`rounds`: {system: [Measure of round 1, …]}. Returns {system: {figure: median, "of quorum": …}}."""
    found = {}
    for name, measures in rounds.items():
        found[name] = {figure: round(median(m.as_json()[figure] for m in measures), 2)
                       for figure in measures[0].as_json()}
        for other in rounds:
            found[name][f"of_{other}"] = round(median(
                mine.requests_per_s / theirs.requests_per_s for mine, theirs in zip(measures, rounds[other])), 2)
    return found


def table(title, rows):
    """`rows`: lists of strings, the first row is the heading. Columns aligned, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [title]
    for row in rows:
        cells = [text.ljust(widths[0]) if column == 0 else text.rjust(widths[column])
                 for column, text in enumerate(row)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def cells_table(replicas, cells):
    """`cells`: {cell's name: summary}."""
    rows = [["requests/s", "weft", "quorum", "bound", "weft/quorum", "weft/bound", "p50 µs: weft", "quorum",
             "CPU µs: weft", "quorum"]]
    for name, systems in cells.items():
        weft, quorum, bound = systems["weft"], systems["quorum"], systems["bound"]
        rows.append([name, *(f"{system['requests_per_s']:.0f}" for system in (weft, quorum, bound)),
                     f"{weft['of_quorum']:.2f}", f"{weft['of_bound']:.2f}",
                     *(f"{system['latency_median_us']:.0f}" for system in (weft, quorum)),
                     *(f"{system['server_cpu_us']:.1f}" for system in (weft, quorum))])
    return table(f"{replicas} replicas (medians of rounds; CPU: of the servers, per request)", rows)


def resync_lines(resync):
    """What resync.run() returned, as sentences."""
    full, partial, size = resync["full"], resync["partial"], f"{resync['size_bytes'] / 2 ** 20:.0f} MiB"
    return (f"full resync of {size}: {full['mb_per_s']:.0f} MB/s, nbdcopy between the same servers "
            f"{full['nbdcopy_mb_per_s']:.0f} MB/s: {full['of_nbdcopy']:.2f} of it\n"
            f"partial resync of {size} after {partial['writes_missed']} missed 4 KiB writes: "
            f"{partial['seconds']:.2f} s, {partial['copied_mib']:.0f} MiB copied")


def breaches(results):
    """What falls short of what is required, as sentences."""
    found = []
    for name, systems in results.get("cells", {}).get("2", {}).items():
        if systems["weft"]["of_quorum"] < REQUIRED:
            found.append(f"2 replicas, {name}: {systems['weft']['of_quorum']:.2f} x the quorum driver, required are "
                         f"{REQUIRED:.1f}")
    resync = results.get("resync", {}).get("full")
    if resync and resync["of_nbdcopy"] < RESYNC_REQUIRED:
        found.append(f"full resync: {resync['of_nbdcopy']:.2f} of nbdcopy's rate, required are {RESYNC_REQUIRED:.1f}")
    return found
