"""A job across institutions that share no network: a hub, three institutions behind firewalls, a fourth for a time.

As root on Linux each is in a network namespace of its own with only outbound routes; st-mary reaches the internet by
a proxy with a password, north by one that inspects TLS. A fourth institution joins in mid-job and is revoked, and one
leaves. Then the same job with the same membership runs on one machine: both must end with the same commit.

    make demo-join        # or: python -m benchmarks.join [--runs-dir runs/demo-join] [--one-network]
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import trustme

from tools.demo_data import prepare_demo_data
from tools.federation.places import Place
from tools.federation.story import JOB, Story
from tools.wan.network import MIDDLE, Wan, address, problem

HUB_NUMBER: Final = 10
PORT: Final = 8443
PROXY_PORT: Final = 3128
INSPECTOR_PORT: Final = 3129
HOST: Final = "hub.test"
# Which text each institution has, and how it reaches the internet.
SITES: Final = {"st-mary": "docs", "north": "python", "south": "cpp", "east": "services"}
USER: Final = "reader:correct-horse"
SPEC: Final[dict[str, Any]] = {
    "model": {"preset": "llama-1m", "tokenizer": {"kind": "byte"}, "seed": 17},
    "rounds": 40,
    "local": {
        "steps": 16,
        "batchSize": 2,
        "sequenceLength": 128,
        "precision": "fp32",
        "learningRate": {"max": 1.5e-3, "schedule": "Cosine", "warmupSteps": 60},
    },
    "outer": {"type": "Nesterov", "learningRate": 1.0, "momentum": 0.5},
    "evaluation": {"everyRounds": 20, "batchSize": 32, "maxTokens": 20_000},
    "participation": {"roundDeadlineSeconds": 300},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/demo-join"))
    parser.add_argument("--one-network", action="store_true", help="no namespaces and no proxies (needs no root)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    runs: Path = arguments.runs_dir.resolve()
    why = problem()
    if why is not None and not arguments.one_network:
        print(f"one network for all: this machine {why}")
    started = time.monotonic()
    print("1. Preparing the text of four institutions from the installed environment", flush=True)
    texts = prepare_demo_data(runs / "data")
    data = {name: texts[text] for name, text in SITES.items()}
    for name in ("hub", "home", *SITES):
        shutil.rmtree(runs / name, ignore_errors=True)
    with ExitStack() as stack:
        separate = why is None and not arguments.one_network
        story = _apart(runs, data, stack) if separate else _together(runs, data)
        stack.callback(story.stop)
        summary = _tell(story, runs)
    summary |= {"separate_networks": separate, "seconds": round(time.monotonic() - started, 1)}
    (runs / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))
    if not (summary["completed"] and summary["digest_equal"]):
        sys.exit("error: the job did not end as it must")


def _tell(story: Story, runs: Path) -> dict[str, Any]:
    print("\n2. The hub opens its door and waits for three institutions", flush=True)
    story.open_hub(at_once=3)
    for name in ("st-mary", "north", "south"):
        story.join(name)
    story.wait_for_round(2)
    print("\n3. A fourth joins in mid-job, and is revoked", flush=True)
    story.join("east")
    story.takes_part("east")
    story.gone.add("east")
    print(story.hub.photon("revoke", str(story.hub.run_folder(JOB)), "east").stdout.strip(), flush=True)
    now = story.wait("the end of east's access", lambda now: _access(now, "east") == "Revoked")
    story.wait_for_round(now["committedRounds"] + 1)
    print("\n4. One leaves", flush=True)
    story.gone.add("south")
    print(story.sites["south"].photon("leave", str(story.sites["south"].run_folder(JOB))).stdout.strip(), flush=True)
    story.wait("south to leave", lambda now: _access(now, "south") == "Left")
    summary = story.finish()
    print("\n" + story.hub.photon("participants", str(story.hub.run_folder(JOB))).stdout, flush=True)
    print("5. The same job with the same membership on one machine", flush=True)
    alone = story.at_home(Place("home", runs / "home"))
    return {
        "completed": summary["rounds"] == SPEC["rounds"],
        "digest_equal": alone["last_commit"] == summary["last_commit"],
        "participants": {one["name"]: one["access"] for one in _participants(story)},
        "last_commit": summary["last_commit"],
    }


def _participants(story: Story) -> list[dict[str, str]]:
    """Name and access of each, as ``photon participants`` prints them."""
    lines = story.hub.photon("participants", str(story.hub.run_folder(JOB))).stdout.splitlines()[1:]
    return [{"name": line.split()[0], "access": line.split()[1]} for line in lines]


def _access(status: dict[str, Any], name: str) -> str | None:
    return next((one.get("access") for one in status["participants"] if one["name"] == name), None)


def _together(runs: Path, data: dict[str, Path]) -> Story:
    hub = Place("hub", runs / "hub")
    sites = {name: Place(name, runs / name) for name in SITES}
    return Story(hub=hub, sites=sites, data=data, spec=SPEC, door=("--door", f"127.0.0.1:{PORT}"))


def _apart(runs: Path, data: dict[str, Path], stack: ExitStack) -> Story:
    """Each place in a network of its own, and two proxies in the middle."""
    wan = stack.enter_context(Wan({HOST: address(HUB_NUMBER)}))
    wan.add("hub", HUB_NUMBER, ports=[PORT, PORT + 1])
    inspector = trustme.CA()
    pem = runs / "inspector.pem"
    pem.write_bytes(inspector.cert_pem.bytes() + inspector.private_key_pem.bytes())
    trusted = runs / "inspector-ca.pem"
    inspector.cert_pem.write_to_path(str(trusted))

    def within(name: str) -> Any:
        return lambda command: wan.command(name, command)

    hub = Place("hub", runs / "hub", within("hub"))
    env: dict[str, dict[str, str]] = {
        "st-mary": {"HTTPS_PROXY": f"http://{USER}@{address(1)}:{PROXY_PORT}"},
        "north": {"HTTPS_PROXY": f"http://{address(1)}:{INSPECTOR_PORT}", "SSL_CERT_FILE": str(trusted)},
    }
    sites = {}
    for number, name in enumerate(SITES, 21):
        wan.add(name, number, only_to=[1] if name in env else [HUB_NUMBER])
        sites[name] = Place(name, runs / name, within(name), env.get(name, {}))
    public = f"https://{HOST}:{PORT}"
    story = Story(
        hub=hub,
        sites=sites,
        data=data,
        spec=SPEC,
        door=(
            "--door",
            f"{address(HUB_NUMBER)}:{PORT}",
            "--public-url",
            public,
            "--public-store",
            f"https://{HOST}:{PORT + 1}",
        ),
    )
    command = [sys.executable, "-m", "tools.wan.proxies", "--listen"]
    # The inspector trusts the hub by the authority that is in the hub's folder once its door is open.
    proxies = [
        [*command, f"{address(1)}:{PROXY_PORT}", "--user", USER],
        [*command, f"{address(1)}:{INSPECTOR_PORT}", "--inspect", str(pem), "--upstream-ca", str(_authority(runs))],
    ]
    for each in proxies:
        stack.callback(_end, subprocess.Popen(wan.command(MIDDLE, each), stdout=subprocess.DEVNULL))
    return story


def _authority(runs: Path) -> Path:
    return runs / "hub" / "runs" / JOB / "tls" / "ca.pem"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


if __name__ == "__main__":
    main()
