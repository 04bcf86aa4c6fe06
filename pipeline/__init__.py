"""The stages of dvc.yaml. Each reads its inputs, calls lightpeft, and writes its outputs."""
