"""What the test of exports asks of Amp: its own files of a calculator."""

import json
import sys
from pathlib import Path

from amp import Amp
from amp.convert import save_to_n2p2, save_to_openkim, save_to_prophet


def main(name, units):
    calc = Amp.load(name, label="theirs", cores=1)
    save_to_openkim(calc, "amp.params", units=units)
    save_to_prophet(calc, "potential_", units=units)
    for functions in calc.descriptor.parameters["Gs"].values():
        for function in functions:
            if "gamma" in function:
                function["gamma"] = int(function["gamma"])  # it fails with anything else
    save_to_n2p2(calc.descriptor.parameters, calc.model.parameters)
    names = ("amp.params", "potential_Cu", "potential_Pt", "scaling.data", "input.nn",
             "weights.029.data", "weights.078.data")  # fmt: skip
    Path("answer.json").write_text(json.dumps({name: Path(name).read_text() for name in names}))


if __name__ == "__main__":
    main(*sys.argv[1:])
