import os, sys, time
import numpy as np

def double(arrays, samples):
    return {"twice": (arrays["x"][:, 0] * 2).astype(np.int64)}

def die(arrays, samples, how):
    print("about to die", flush=True)
    os.kill(os.getpid(), how)
    time.sleep(60)

def fail(arrays, samples):
    raise ValueError("no such luck")

def slow(arrays, samples, mark, seconds=60):
    open(mark, "w").close()
    time.sleep(seconds)
    return {"twice": arrays["x"][:, 0].astype(np.int64)}

def peek(arrays, samples, name):
    try:
        open(os.path.join(os.path.dirname(__file__), name)).read()
    except BaseException:
        pass
    return {"twice": arrays["x"][:, 0].astype(np.int64)}
