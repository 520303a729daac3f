# Gets presync from a pinned place, checks it, and starts the agent. Run by presync-install.service at each boot.
# In Python, because cloud-init is: curl and wget are not on every image.
# Exit codes: 4 when what came is not what was pinned, of which nothing is run and which is not asked for again; 5 when
# there is nothing at that place; 1 for what may be better at another attempt.
import hashlib
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

EXECUTABLE = "/usr/local/bin/presync"
# A connection that moves no byte for so long is dead, seconds.
STALL = 30
LONGEST_WAIT = 30
# More than any release has; keeps a server that is not what it should be from filling the disk.
MAX_BYTES = 1 << 30


def end(code, message):
    print(message, file=sys.stderr, flush=True)
    sys.exit(code)


def digest_of(path):
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return None
    return digest.hexdigest()


def download(url, path):
    # Writes what is at the URL to the file, durably, and gives its digest.
    digest = hashlib.sha256()
    length = 0
    with urllib.request.urlopen(url, timeout=STALL) as answer:
        announced = answer.headers.get("Content-Length")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            while block := answer.read(1 << 20):
                length += len(block)
                if length > MAX_BYTES:
                    raise ValueError("it is larger than presync can be")
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    # A body that is cut short ends like a whole one.
    if announced is not None and int(announced) != length:
        raise OSError(f"{length} bytes came of {announced}")
    return digest.hexdigest()


def fetch(url, sha256, path, mode):
    # The file is at that path when this returns, with the right content, and never with any other.
    part = f"{path}.part"
    wait = 1
    while True:
        try:
            found = download(url, part)
            break
        except urllib.error.HTTPError as error:
            if 400 <= error.code < 500 and error.code not in (408, 425, 429):
                end(5, f"{url} cannot be had: {error}")
            reason = error
        except ValueError as error:
            os.unlink(part)
            end(4, f"what is at {url} is not presync: {error}")
        except (OSError, http.client.HTTPException) as error:
            reason = error
        print(f"{url}: {reason}; asked again in {wait} s", file=sys.stderr, flush=True)
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)
    if found != sha256:
        os.unlink(part)
        end(4, f"what is at {url} has the SHA-256 {found}, and not {sha256}; nothing of it is run")
    os.chmod(part, mode)
    os.replace(part, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def install_executable(url, sha256):
    if digest_of(EXECUTABLE) != sha256:
        fetch(url, sha256, EXECUTABLE, 0o755)
    try:
        subprocess.run([EXECUTABLE, "--version"], check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        end(1, f"{EXECUTABLE} does not run here: {error}; it needs libatomic1 and libstdc++6 in the image")


def install_package(url, sha256):
    state = os.environ["STATE_DIRECTORY"]
    mark = f"{state}/installed"
    if os.path.exists(mark) and is_installed():
        with open(mark, encoding="ascii") as file:
            if file.read() == sha256:
                return
    package = f"{state}/presync.deb"
    if digest_of(package) != sha256:
        fetch(url, sha256, package, 0o644)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # The configuration is there already, and is the one that is meant.
    keep = "--force-confold"
    # Of an installation that was cut short.
    subprocess.run(["dpkg", keep, "--configure", "-a"], check=False, env=environment)
    options = ["-o", f"Dpkg::Options::={keep}", "-o", "DPkg::Lock::Timeout=600", "--no-install-recommends"]
    install = ["apt-get", "--quiet", "--yes", *options, "install", package]
    if subprocess.run(install, check=False, env=environment).returncode != 0:
        subprocess.run(["apt-get", "--quiet", "update"], check=False, env=environment)
        if subprocess.run(install, check=False, env=environment).returncode != 0:
            end(1, f"{package} could not be installed")
    with open(mark, "w", encoding="ascii") as file:
        file.write(sha256)
    os.unlink(package)


def is_installed():
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", "presync"]
    return subprocess.run(query, check=False, capture_output=True, text=True).stdout == "installed"


def main():
    with open("/etc/presync/install.json", encoding="utf-8") as file:
        wanted = json.load(file)
    install = {"executable": install_executable, "package": install_package}[wanted["kind"]]
    install(wanted["url"], wanted["sha256"])
    for command in (["enable", "--quiet"], ["start", "--no-block"]):
        subprocess.run(["systemctl", *command, "presync-bootstrap.service"], check=True)


main()
