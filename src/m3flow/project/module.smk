# From a list of videos to optical flow and trajectories, by the rules that come with m3flow.
# What is made: config.yaml; where: profiles/ and slurm/.
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
