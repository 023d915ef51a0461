# shellcheck source=/dev/null
if [ -r env.sh ]; then . ./env.sh || exit 7; fi
if ! command -v @WORDS >/dev/null; then
    echo "ampmpi is not on the PATH: load its module or environment in $PWD/env.sh" >&2
    exit 7
fi
