# From a list of videos to optical flow and trajectories, with the rules of the installed m3flow.
# Settings: config.yaml; machines: profiles/ and slurm/.
from importlib.resources import files


configfile: "config.yaml"


module motion:
    snakefile:
        str(files("m3flow") / "project/Snakefile")
    config:
        config


use rule * from motion


onsuccess:
    motion.end_of_run()


onerror:
    motion.end_of_run()
