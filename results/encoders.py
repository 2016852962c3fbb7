"""What an encoder costs: the table in results/README.md.

    python results/encoders.py         # measure: two minutes; DOFA where torchgeo is installed
    python results/encoders.py table   # only the table of what was measured

Weights are random, for costs do not depend on them. One window of 256 px with six bands passes each network, by turns;
processor time of one thread, median of the turns. Memory is the most that a pass in training allocates, which keeps
what the gradients need, without the weights. (Without gradients the pyramid's finest level decides, and all are alike.)
"""
import sys, time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd, torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from minec2f.models import mine_model
from minec2f.study.results import markdown

FILE = Path(__file__).with_suffix('.csv')
BANDS = ['B02','B03','B04','B8A','B11','B12']
SIZE, TURNS = 256, 7
DEFAULT = 'DenseNet-121 (default)'
NETWORKS = {
    DEFAULT:               dict(encoder='densenet121'),
    'EfficientNet-Lite0':  dict(encoder='tu-tf_efficientnet_lite0'),
    'ResNet-18':           dict(encoder='resnet18'),
    'ResNet-50':           dict(encoder='resnet50'),
    'ViT-S/16':            dict(encoder='timm:vit_small_patch16_224'),
    'Swin-v2-T':           dict(encoder='torchvision:swin_v2_t'),
    'Swin-v2-B':           dict(encoder='torchvision:swin_v2_b'),
    'Prithvi-100M':        dict(arch='prithvi_100m'),
    'DOFA-base':           dict(encoder='torchgeo:dofa_base_patch16_224')}

def multiply_adds(net, x):
    with FlopCounterMode(display=False) as counter: net(x)
    return counter.get_total_flops()/2

def most_memory(net, x): # bytes
    with torch.enable_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof: net(x)
    changes = [o for o in prof.profiler.kineto_results.events() if o.name()=='[memory]']
    return pd.Series([o.nbytes() for o in sorted(changes, key=lambda o: o.start_ns())]).cumsum().max()

def seconds(net, x):
    began = time.process_time()
    net(x)
    return time.process_time()-began

@torch.no_grad()
def measure():
    "A line for each network, its time and memory as ratios to the default's"
    torch.set_num_threads(1)
    x = torch.randn(1, len(BANDS), SIZE, SIZE)
    there = {k: o for k,o in NETWORKS.items() if 'torchgeo' not in o.get('encoder', '') or find_spec('torchgeo')}
    nets = {k: mine_model(BANDS, **o).eval() for k,o in there.items()}
    for net in nets.values(): net(x)
    times = pd.DataFrame([{k: seconds(net, x) for k,net in nets.items()} for _ in range(TURNS)])
    ratio = times.div(times[DEFAULT], axis=0).median()
    memory = pd.Series({k: most_memory(net, x) for k,net in nets.items()})
    return pd.DataFrame({
        'parameters (M)':      {k: sum(o.numel() for o in net.parameters())/1e6 for k,net in nets.items()},
        'multiply-adds (G)':   {k: multiply_adds(net, x)/1e9 for k,net in nets.items()},
        'time, ratio':         ratio,
        'training memory, ratio': memory/memory[DEFAULT]})

def table():
    "Markdown of what was measured"
    shown = pd.read_csv(FILE, index_col=0)
    text = shown.apply(lambda o: o.map('{:.1f}'.format if '(' in o.name else '{:.2f}'.format))
    return markdown(text.rename_axis('encoder'))

if __name__=='__main__':
    if 'table' not in sys.argv: measure().round(4).to_csv(FILE)
    print(table())
