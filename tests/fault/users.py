"""Users of one group, as whom commands are run; only root can do that."""

import os
import shlex
import shutil
import stat
import sys
from dataclasses import dataclass

import commands
from commander import Commander

GROUP = 61000


def _hidden():
    """Return folders that only root can reach, and where in them Python and the package lie."""
    needed = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, commands.ROOT)}
    found = {}
    for path in sorted(needed):
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(2, len(parts))]
        closed = [folder for folder in above if not os.stat(folder).st_mode & stat.S_IXOTH]
        if closed:
            found.setdefault(closed[0], []).append(path)
    return found


def _showing(hidden):
    """Return shell commands that show these places to all, in a mount namespace of its own."""
    script = ["set -e"]
    for folder, paths in hidden.items():
        held = [f"/mnt/{number}" for number in range(len(paths))]
        script.append("mount -t tmpfs none /mnt")
        for path, place in zip(paths, held, strict=True):
            script += [f"mkdir {place}", f"mount --bind {shlex.quote(path)} {place}"]
        script.append(f"mount -t tmpfs -o mode=755 none {shlex.quote(folder)}")
        for path, place in zip(paths, held, strict=True):
            script += [f"mkdir -p {shlex.quote(path)}", f"mount --bind {place} {shlex.quote(path)}"]
    return "\n".join(script)


def commander(environment):
    """Return a `Commander` that has what users need to run the package."""
    hidden = _hidden()
    script = _showing(hidden) + '\nexec "$@"'
    return Commander(["unshare", "-m", "sh", "-c", script, "sh"] if hidden else [], environment)


@dataclass(frozen=True)
class User:
    """A user of the group.

    Attributes
    ----------
    number : int
        User id, and that of the user's own group.
    """

    number: int

    def ampmpi(self, *words, commander, umask=0o022, **options):
        """Run ``ampmpi``, or ``-c SCRIPT``; return its exit code and all that it said."""
        ending = commander.run(
            *words, user=self.number, groups=[GROUP], umask=umask, seconds=120, **options
        )
        return ending.code, ending.output

    def succeed(self, *words, **options):
        """Run ``ampmpi``, which must end well; return what it said."""
        code, output = self.ampmpi(*words, **options)
        assert code == 0, output
        return output

    def keys(self, path, **options):
        """Return the keys of all entries that this user can read."""
        return set(self.succeed("-c", _READ, path, **options).split())


_READ = """
import sys
from ampmpi import FingerprintDatabase
database = FingerprintDatabase(sys.argv[1])
found = dict(database.get_many())
assert not database.corrupt and set(found) == set(database)
print(*found)
"""

OWNER, COLLEAGUE = User(61001), User(61002)


def give(path, user, group=GROUP):
    """Give a folder, and all that lies in it, to a user and a group."""
    for folder, _, files in os.walk(path):
        os.chown(folder, user.number, group)
        for name in files:
            os.chown(os.path.join(folder, name), user.number, group, follow_symlinks=False)


def open_to_group(path):
    """Do what ``chmod -R g+ws`` does to folders, and ``g+rw`` to files."""
    for folder, _, files in os.walk(path):
        os.chmod(folder, mode(folder) | stat.S_ISGID | 0o070)
        for name in files:
            os.chmod(os.path.join(folder, name), mode(os.path.join(folder, name)) | 0o060)


def mode(path):
    """Return the bits of a file or folder."""
    return stat.S_IMODE(os.lstat(path).st_mode)


def share_kernels(source, target):
    """Copy compiled kernels to where every user may use them."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    for folder, _, files in os.walk(target):
        os.chmod(folder, 0o777)
        for name in files:
            os.chmod(os.path.join(folder, name), 0o666)
