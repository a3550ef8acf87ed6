"""What the machine says of itself while it works: memory by kind, clock, temperature, energy. Linux; None elsewhere.

Every reader takes the root of the file system, so that tests can give it one of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def memory(root: Path = ROOT) -> dict[str, int] | None:
    """Bytes of this process: `anonymous` and `file` (mapped, reclaimable) now, `peak` (both together) so far."""
    found = dict(re.findall(r"^(RssAnon|RssFile|VmHWM):\s+(\d+) kB", _text(root / "proc/self/status"), re.MULTILINE))
    if len(found) < 3:
        return None
    return {
        word: 1024 * int(found[key]) for word, key in (("anonymous", "RssAnon"), ("file", "RssFile"), ("peak", "VmHWM"))
    }


def clock_mhz(root: Path = ROOT) -> list[float] | None:
    """Of each core, now."""
    files = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    values = [khz / 1000 for file in files if (khz := _number(file)) is not None]
    if not values:
        values = [
            float(word) for word in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", _text(root / "proc/cpuinfo"), re.MULTILINE)
        ]
    return values or None


def temperatures(root: Path = ROOT) -> dict[str, float] | None:
    """Degrees Celsius by the name of the sensor; several of one name: the hottest."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        millidegrees, name = _number(zone / "temp"), _text(zone / "type").strip() or zone.name
        if millidegrees is not None:
            found[name] = max(found.get(name, -273.0), millidegrees / 1000)
    return found or None


@dataclass(frozen=True)
class Energy:
    """Counters of joules. RAPL's are whole packages; a battery's is its charge, which falls."""

    rapl: dict[str, tuple[int, int]]  # zone -> microjoules, where the counter wraps
    battery: float | None  # joules left; None on mains or without one

    @classmethod
    def read(cls, root: Path = ROOT) -> Energy:
        zones: dict[str, tuple[int, int]] = {}
        for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]")):
            count, wraps = _number(zone / "energy_uj"), _number(zone / "max_energy_range_uj")
            if count is not None and wraps:
                zones[_text(zone / "name").strip() or zone.name] = (count, wraps)
        return cls(zones, _battery(root))

    def since(self, before: Energy) -> dict[str, float] | None:
        """Joules spent by source; None where nothing can be read."""
        spent = {
            f"rapl {zone}": ((count - before.rapl[zone][0]) % wraps) / 1e6
            for zone, (count, wraps) in self.rapl.items()
            if zone in before.rapl
        }
        if self.battery is not None and before.battery is not None:
            spent["battery"] = before.battery - self.battery
        return spent or None


def _battery(root: Path) -> float | None:
    """Joules in the first battery that is being used up: energy_now (uWh), or charge_now (uAh) times voltage (uV)."""
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        if _text(supply / "type").strip() != "Battery" or _text(supply / "status").strip() != "Discharging":
            continue
        energy, charge, volts = (_number(supply / name) for name in ("energy_now", "charge_now", "voltage_now"))
        if energy is not None:
            return energy * 3600e-6
        if charge is not None and volts is not None:
            return charge * volts * 3600e-12
    return None
