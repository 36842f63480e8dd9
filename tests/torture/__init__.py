"""Cases that try to hurt: broken inputs, full disks, signals and kills. `make torture` runs them all."""
