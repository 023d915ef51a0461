#!/bin/sh
# Install Amp itself, with its Fortran modules, into .venv-amp at the top of the
# tree. Amp needs an old numpy, hence a Python of its own. The last line says
# why, where it cannot be done here (exit code 77) or failed.
set -eu
cd "$(dirname "$0")/../.."
venv=.venv-amp

[ -e "$venv/.installed" ] && exit 0

command -v gfortran >/dev/null || {
    echo "Amp cannot be built: there is no gfortran"
    exit 77
}

usable='
import os, sys, sysconfig, venv, ensurepip
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not ((3, 8) <= sys.version_info[:2] <= (3, 11) and os.path.exists(header)))
'
python=
for candidate in ${AMP_PYTHON:-} .venv/bin/python python3.11 python3.10 python3.9 python3; do
    if command -v "$candidate" >/dev/null && "$candidate" -c "$usable" 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || {
    echo "Amp cannot be built: it needs Python 3.8 to 3.11 with its C headers (AMP_PYTHON=)"
    exit 77
}

echo "Building Amp with $python into $venv (some minutes, once)"
rm -rf "$venv"
"$python" -m venv "$venv"
log=$venv/install.log
{
    "$venv/bin/python" -m pip install numpy==1.23.5 'setuptools<60' wheel ase==3.22.1 'scipy<1.11' matplotlib &&
        "$venv/bin/python" -m pip install --no-build-isolation amp-atomistics==1.0.1 &&
        "$venv/bin/python" -c 'import amp; from amp import fmodules'
} >"$log" 2>&1 || {
    tail -n 20 "$log"
    echo "Amp could not be built: see $log"
    exit 1
}
touch "$venv/.installed"
