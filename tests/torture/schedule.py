# SPDX-License-Identifier: Apache-2.0
"""A round as a value: which volume, which load, which faults when. Pure: the same seed is the same round for ever.

Nodes are 1, 2, 3. A fault on a node does not overlap another one on the same node; there is one cut at a time and one
outage of the store. Faults of different kinds and on different nodes overlap freely.
"""
import random
from dataclasses import dataclass, field

NODES = (1, 2, 3)
BEGIN, LAST_START = 0.3, 3.0   # seconds: when faults begin
NODE_GONE = 7.0                # seconds: longer than a lease and the patience after it: what it has is replaced
REST = 0.5                     # seconds between two faults on one node
LEASE_GONE = 4.0               # seconds: longer than a lease; it ends after all others, when the volume is elsewhere

# What an application on the volume must not notice as an error, whatever the node (R4: hold, record, release) …
SURVIVABLE = {"kill_replica_server": 3, "kill_storage": 3, "stop_replica_server": 3, "kill_weftd": 2, "stop_weftd": 2,
              "slow_drive": 1, "cut": 4, "isolate": 2, "store_locked": 1, "store_moved": 1}
# … what it must not notice while it runs on another node …
ELSEWHERE = {"kill_node": 3, "stop_node": 3, "lose_node": 1}
# … and what takes its volume from it, or tells it of errors; the load then goes on at the next place.
VIOLENT = {"kill_volume_server": 4, "kill_home": 3, "stop_home": 2, "stop_volume_server": 2, "take_over": 3, "move": 2,
           "lose_lease": 2, "kill_cluster": 2, "failing_drive": 2, "full_drive": 2, "reboot_storage": 2}

OPTIONS = {"provisioning": ("", "", "thick"), "checksums": ("", "", "off"), "on-full": ("", "", "fail")}
AT_ONCE = ("take_over", "move", "kill_volume_server", "kill_replica_server", "reboot_storage")
AWAY = ("lose_lease", "kill_home", "stop_home", "stop_volume_server", "take_over", "move")
NETWORK = ("cut", "isolate")
STORE = ("store_locked", "store_moved")


@dataclass
class Fault:
    kind: str
    node: int = 0          # 0: none in particular
    other: int = 0         # the second node of a cut, or where the volume goes
    begin: float = 0.0     # seconds from the start of the load
    duration: float = 0.0  # 0: over at once
    detail: str = ""

    def __str__(self):
        words = [f"{self.begin:5.2f}", f"to {self.begin + self.duration:5.2f} s" if self.duration else " " * 10,
                 self.kind, f"n{self.node}" if self.node else "", f"n{self.other}" if self.other else "", self.detail]
        return " ".join(word for word in words if word)


@dataclass
class Round:
    seed: int
    load: str              # block, steady, fio, database
    home: int
    replicas: int
    min_replicas: int
    ending: str = ""       # of a database: how it gets to its next home
    next_home: int = 0
    journal: str = ""
    options: dict = field(default_factory=dict)   # of the volume's creation, besides
    faults: list = field(default_factory=list)

    def __str__(self):
        head = (f"seed {self.seed}: load {self.load} on n{self.home}, replicas {self.replicas}, "
                f"min-replicas {self.min_replicas}" + "".join(f", {k} {v}" for k, v in self.options.items()))
        if self.ending:
            head += f", journal {self.journal}; then n{self.home} {self.ending}, on to n{self.next_home}"
        return "\n".join([head, *(f"  {fault}" for fault in self.faults)])


def _weighted(chance, weights):
    return chance.choices(list(weights), list(weights.values()))[0]


def _other(chance, *taken):
    return chance.choice([node for node in NODES if node not in taken])


class _Planner:
    def __init__(self, seed, load=None):
        self.chance = random.Random(seed)
        chance = self.chance
        drawn = _weighted(chance, {"block": 6, "steady": 2, "fio": 1, "database": 2})
        replicas = chance.choice((2, 3, 3))
        self.round = Round(seed, load or drawn, chance.choice(NODES), replicas,
                           chance.choice((1, 1, 1, 2)) if replicas == 3 else 1)
        # A generator of its own: a new option changes no seed's faults.
        options = random.Random(f"options of {seed}")
        self.round.options = {name: value for name, values in OPTIONS.items() if (value := options.choice(values))}
        self.home = self.round.home
        if self.round.load == "database":
            self.round.ending = chance.choice(("dies", "dies", "lets go"))
            self.round.next_home = _other(chance, self.home)
            self.round.journal = chance.choice(("wal", "delete"))
        self.free_from = {node: 0.0 for node in NODES}
        self.network_free = self.store_free = 0.0
        self.last_move = False   # a deposed writer is out there: the volume stays where it went

    def plan(self):
        weights = dict(SURVIVABLE, **ELSEWHERE)
        if self.round.load == "block":
            weights.update(VIOLENT)
        for begin in sorted(self.chance.uniform(BEGIN, LAST_START) for _ in range(self.chance.randint(2, 5))):
            self._add(_weighted(self.chance, weights), round(begin, 2))
        return self.round

    def _add(self, kind, begin):
        chance = self.chance
        duration = round(chance.choice((chance.uniform(0.2, 1.0), chance.uniform(1.0, 3.0))), 2)
        if kind in NETWORK:
            if begin >= self.network_free:
                self.network_free = begin + duration + REST
                one = chance.choice(NODES)
                both = chance.choice(("one way", "both ways"))
                self.round.faults.append(Fault(kind, one, _other(chance, one) if kind == "cut" else 0, begin, duration,
                                               both))
            return
        if kind in STORE:
            if begin >= self.store_free:
                self.store_free = begin + duration + REST
                self.round.faults.append(Fault(kind, begin=begin, duration=duration))
            return
        self._add_on_node(kind, begin, duration)

    def _add_on_node(self, kind, begin, duration):
        chance = self.chance
        if self.last_move and (kind in AWAY or kind in ("kill_volume_server", "kill_cluster")):
            return
        if kind == "kill_cluster":
            if begin >= max(self.free_from.values()):
                self.free_from = dict.fromkeys(NODES, begin + duration + REST)
                self.home = chance.choice(NODES)
                self.round.faults.append(Fault(kind, 0, self.home, begin, duration))
            return
        if kind == "kill_volume_server" or kind in AWAY:
            node = self.home
        elif kind in ELSEWHERE:
            node = _other(chance, self.home)
        else:
            node = chance.choice(NODES)
        if begin < self.free_from[node]:
            return
        target = 0
        if kind in AWAY:
            target = _other(chance, node)
        elif kind == "kill_volume_server":
            target = chance.choice(NODES)
        if kind in AT_ONCE:
            duration = 0.0
        elif kind == "lose_lease":
            duration = LEASE_GONE
        elif kind == "lose_node":
            duration = NODE_GONE
        detail = ""
        if kind == "kill_home":
            detail = chance.choice(("by force", "when the lease has run out"))
        elif kind == "failing_drive":
            detail = chance.choice(("EIO on writes", "EIO on reads", "ENOSPC on writes"))
        self.free_from[node] = begin + duration + REST
        if kind == "lose_lease":
            self.last_move, self.free_from[node] = True, float("inf")
        self.round.faults.append(Fault(kind, node, target, begin, duration, detail))
        if target:
            self.home = target


def make_round(seed, load=None):
    return _Planner(seed, load).plan()
