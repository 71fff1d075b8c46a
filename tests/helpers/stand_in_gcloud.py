"""A stand-in for gcloud; see launch_stand_ins.

Command: python stand_in_gcloud.py STATE_FILE ARGUMENT...
"""

import fcntl
import json
import os
import sys

NOT_FOUND = "ERROR: NOT_FOUND: Resource 'projects/p/nodes/facecycle' was not found"


def main(path, arguments):
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(path) as file:
            cloud = json.load(file)
        try:
            return answer(cloud, arguments)
        finally:
            # At once, as a test may look meanwhile.
            with open(f"{path}.new", "w") as file:
                json.dump(cloud, file)
            os.replace(f"{path}.new", path)


def answer(cloud, arguments):
    """Does what a call asks for; returns the exit status."""
    verb = arguments[3] if arguments[0] == "compute" else arguments[0]
    cloud.setdefault("commands", []).append(arguments)
    trains = verb == "ssh" and any("tpu_host.sh train" in word for word in arguments)
    cloud["calls"].append("train" if trains else verb)

    if verb == "storage":
        return list_checkpoints(cloud)
    if verb == "create":
        return create(cloud, arguments)
    if not cloud["state"]:
        return fail(NOT_FOUND)
    if verb == "describe":
        return describe(cloud, arguments[-1])
    if verb == "delete":
        cloud["state"] = ""
        return 0
    if verb == "scp" and cloud.get("scp"):
        return cloud["scp"].pop(0)
    if trains and cloud.get("train"):
        return train(cloud, cloud["train"].pop(0))
    if trains:
        return train(cloud, {"statuses": [0] * cloud["hosts"], "state": "READY"})
    return 0


def fail(message):
    print(message, file=sys.stderr)
    return 1


def create(cloud, arguments):
    if cloud.get("appears"):
        cloud.update(state="READY", label="somebody-else")
    error = cloud["create"].pop(0) if cloud.get("create") else None
    if cloud["state"]:
        return fail("ERROR: ALREADY_EXISTS: Resource 'facecycle' already exists")
    # An error that begins so comes after the machine has been made.
    if error is None or error.startswith("TIMEOUT"):
        (label,) = (word for word in arguments if word.startswith("--labels="))
        cloud["state"] = "READY"
        cloud["label"] = label.split("=")[-1]
    return 0 if error is None else fail(error)


def describe(cloud, what):
    answers = {
        "state": cloud["state"],
        "labels.facecycle_launch": cloud["label"],
        # Of a queued resource: it may wait first.
        "state.state": cloud["queue"].pop(0) if cloud.get("queue") else "ACTIVE",
        "tpu.nodeSpec[0].node.labels.facecycle_launch": cloud["label"],
        "networkEndpoints.len()": cloud["hosts"],
    }
    print(answers[what.removeprefix("--format=value(").removesuffix(")")])
    return 0


def train(cloud, session):
    contacts = session.get("contacts")
    for host in range(cloud["hosts"] if contacts is None else contacts):
        print(f"FACECYCLE_CONTACT of=host{host}")
    for host, status in enumerate(session["statuses"]):
        print(f"FACECYCLE_EXIT of=host{host} status={status}")

    if session.get("checkpoint") is not None:
        cloud["checkpoints"].append(session["checkpoint"])
    cloud["state"] = session["state"]
    return 0 if len(session["statuses"]) == cloud["hosts"] else 255


def list_checkpoints(cloud):
    for step in cloud["checkpoints"]:
        print(f"gs://bucket/run/checkpoints/{step}/")
    # There are no stages, so one of the two patterns never matches.
    return fail("ERROR: (gcloud.storage.ls) One or more URLs matched no objects.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
