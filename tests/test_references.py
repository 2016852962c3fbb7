"Against reference numbers, independent libraries, and what must not matter."
import json
from itertools import permutations, product

import numpy as np, pytest, torch
from scipy import ndimage, stats
from scipy.spatial.distance import cdist

from minec2f.core import IGNORE
from minec2f.contour import contour_distance
from minec2f.losses import SegLoss, _structural, generalised_dice, structural_error
from minec2f.noisy import CoarseLoss, boundary_relaxation, estimate_flip, flip_matrix
from minec2f.metrics import Confusion
from minec2f.boundary import (assd, boundary_bias, boundary_f, boundary_iou, hd95, ignore_outline, surface_distances,
                              trimap_iou)
from minec2f.attention import CBAM
from minec2f.prithvi import prithvi_stats
from minec2f.methods.distill import (attention_transfer, boundary_weight, channelwise_distillation, confidence_weight,
                                     feature_distillation, prediction_distillation)
from minec2f.evaluate import macro
from minec2f.study.binned import bin_row, cell_centres, row_densities
from minec2f.study.calibration import brier, confidence_and_hit, ece
from minec2f.study.shift import (SCALES, band_shift, js_divergence, kde, kernel_matrix, median_distance, mmd2, mmd2_of,
                                 mmd_test, overlap, relabel, sliced_wasserstein, wasserstein)

F64 = torch.float64
def close(a, b, eps=1e-6): np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=eps, rtol=0)

@pytest.fixture
def ref(repo):
    "Numbers computed with numpy and scipy alone, outside this project"
    path = repo.parent/'shared'/'design'/'vectors.json'
    if not path.exists(): pytest.skip('no reference numbers at ../shared/design')
    return json.loads(path.read_text())

FT = torch.tensor([[[1.,2.],[3.,4.]],[[0.,-1.],[2.,1.]]], dtype=F64)[None]
FS = torch.tensor([[[0.,1.],[1.,0.]],[[1.,0.],[0.,1.]]], dtype=F64)[None]
ZT = torch.tensor([[2.,-1.],[.5,.5],[-3.,3.]], dtype=F64).T[None]
ZS = torch.tensor([[1.,0.],[0.,1.],[-1.,1.]], dtype=F64).T[None]

# Reference numbers

def test_v1_cbam(ref):
    gate = CBAM(2, reduction=2).double().eval()
    with torch.no_grad():
        gate.channel.mlp[0].weight.copy_(torch.tensor([[1.,-1.]]))
        gate.channel.mlp[2].weight.copy_(torch.tensor([[1.],[.5]]))
        gate.spatial.conv.weight.zero_()
        gate.spatial.conv.weight[0,:,3,3] = torch.tensor([1.,-1.], dtype=F64)
        gate.spatial.bn.weight.fill_(1)
        channel, spatial = gate.gates(FT)
        out = gate(FT)
    expected = ref['V1_cbam']
    close(channel.flatten(), expected['channel_gate'])
    close(spatial[0,0], expected['spatial_gate'])
    close(out[0], expected['out'])

def test_v2_distillation(ref):
    valid = torch.ones(1, 3, dtype=torch.bool)
    one = valid[:,:1]
    def pixel(i, tau):
        return prediction_distillation(ZS[...,i:i+1], ZT[...,i:i+1], one.double(), one, tau)/tau**2
    for tau in (1, 2): close([pixel(i, tau) for i in range(3)], ref['V2_kd'][f'kl_T{tau}'])
    close(prediction_distillation(ZS, ZT, valid.double(), valid, 2.), ref['V2_kd']['mean_T2xT2'])
    w = confidence_weight(ZT.softmax(1))
    close(w[0], ref['V2_kd']['w_conf'])
    close(prediction_distillation(ZS, ZT, w, valid, 2.), ref['V2_kd']['attentive_T2'])

def test_v3_generalised_dice(ref):
    p = torch.tensor([[.9,.1],[.8,.2],[.4,.6],[.3,.7]], dtype=F64).T[None]
    def gdl(*y): return generalised_dice(p, torch.tensor([y]), smooth=0.)
    expected = ref['V3_gdl']
    close(gdl(0,0,1,1), expected['balanced'])
    close(gdl(0,0,0,1), expected['y0001'])
    close(gdl(0,0,0,0), expected['absent_fg_w_eq_max'])

def test_v4_v5_v6_features(ref):
    close(channelwise_distillation([FS], [FT], 4.), ref['V4_cwd_T4'])
    close(attention_transfer([FS], [FT]), ref['V5_at_mean'])
    close(feature_distillation([FS], [FT]), ref['V6_attnfd_like']['per_sample_sum'])

def squares():
    a = np.zeros((64,64), np.uint8)
    a[20:44,20:44] = 1
    return a, np.roll(a, 2, 1)

def test_v7_masks(ref):
    a, b = squares()
    v = ref['V7_shift2']
    close(Confusion().add(b, a).iou[1], v['iou'])
    close([boundary_iou(b, a, d) for d in (1,2,4)], [v[f'biou_d{d}'] for d in (1,2,4)])
    one, two = surface_distances(b, a, (10,10))
    assert len(one)==len(two)==v['n_contour'] and max(one.max(), two.max())==v['hd_m']
    close([hd95(b, a, (10,10)), assd(b, a, (10,10))], [v['hd95_m_maxdir'], v['assd_m_pooled']])
    close([boundary_f(b, a, t) for t in (1,2)], [v['bf_1px'][2], v['bf_2px'][2]])

def test_v8_shift(ref):
    v = ref['V8_shift']
    x, z = np.array([0.,1,2,3]), np.array([1.,2,4,7])
    close(median_distance(x, z), v['median_pairwise'])
    close(mmd2(x, z), v['mmd2_unbiased'])
    close(wasserstein(x, z), v['w1'])
    close([wasserstein(x, z, 2), sliced_wasserstein(x, z)], [v['w2'], v['w2']])
    close(band_shift(x, z)['ks'], v['ks'])
    grid = np.linspace(-20, 30, 20001)
    f, g = kde(x, grid), kde(z, grid)
    close([overlap(f, g, grid), js_divergence(f, g)], [v['ovl'], v['js_bits']])
    def spread(density): return np.sqrt(np.trapezoid(grid**2*density, grid)-np.trapezoid(grid*density, grid)**2)
    close([spread(f), spread(g)], [np.hypot(v['kde_bw_X'], x.std()), np.hypot(v['kde_bw_Z'], z.std())])

def test_v9_structural(ref):
    r, valid = torch.zeros(1,1,5,5, dtype=F64), torch.ones(1,5,5, dtype=torch.bool)
    r[...,1:4,1:4] = 1
    p = torch.from_numpy(ndimage.gaussian_filter(r[0,0].numpy(), .8).clip(.02,.98))[None,None]
    e = structural_error(p, r, valid)
    close(e.max(), ref['V9_ssl']['e_max'])
    assert (e>.1*e.max()).sum()==ref['V9_ssl']['M']
    close(_structural(p.logit(), r, valid, .1, False), [[ref['V9_ssl']['ssl']]])

def test_v11_boundary_weight(ref):
    close(boundary_weight(torch.tensor([0,.5,1.5,3,6,9], dtype=F64), 3.), ref['V11_boundary_w']['erf'])

def test_v13_parameters(ref):
    n = {c: sum(o.numel() for o in CBAM(c).parameters()) for c in (128,256,512,1024)}
    v = ref['V13_cbam_params']
    assert n=={128: v['seg128'], 256: v['C256'], 512: v['C512'], 1024: v['C1024']}
    assert 4*n[256]==v['fpn4']

# Other implementations

def blobs(rng, shape=(48,60), classes=2, sigma=3):
    return ndimage.gaussian_filter(rng.normal(size=(classes, *shape)), (0,sigma,sigma)).argmax(0)

@pytest.mark.parametrize('classes', [2, 4])
def test_confusion_against_torchmetrics(classes):
    tm = pytest.importorskip('torchmetrics.functional.classification')
    rng = np.random.default_rng(classes)
    target = np.stack([blobs(rng, classes=classes) for _ in range(5)])
    pred = np.where(rng.random(target.shape)<.7, target, rng.integers(0, classes, target.shape))
    target[rng.random(target.shape)<.2] = IGNORE
    cm = sum((Confusion(classes).add(p, t) for p,t in zip(pred, target)), Confusion(classes))
    def theirs(f, **kw): return f(torch.from_numpy(pred), torch.from_numpy(target), classes, ignore_index=IGNORE, **kw)
    close(cm.miou, theirs(tm.multiclass_jaccard_index))
    close(cm.iou, theirs(tm.multiclass_jaccard_index, average=None))
    close(cm.f1, theirs(tm.multiclass_f1_score, average=None))
    close(cm.precision, theirs(tm.multiclass_precision, average=None))
    close(cm.recall, theirs(tm.multiclass_recall, average=None))
    close(cm.accuracy, theirs(tm.multiclass_accuracy, average='micro'))

@pytest.mark.parametrize('classes', [2, 3])
def test_generalised_dice_against_monai(classes):
    losses = pytest.importorskip('monai.losses')
    torch.manual_seed(classes)
    logits, all_classes = torch.randn(3, classes, 16, 16, dtype=F64), torch.randint(0, classes, (3,16,16))
    without_last = all_classes.clamp(max=classes-2)
    theirs = losses.GeneralizedDiceLoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=0., smooth_dr=1e-12)
    for y in (all_classes, without_last):
        close(generalised_dice(logits.softmax(1), y, smooth=0.), theirs(logits, y[:,None]))

def test_distances_against_monai():
    metrics = pytest.importorskip('monai.metrics')
    rng = np.random.default_rng(0)
    for spacing in ((1.,1.), (10.,20.)):
        for _ in range(10):
            p, t = blobs(rng), blobs(rng)
            a, b = (torch.from_numpy(o)[None,None] for o in (p, t))
            kw = dict(include_background=True, spacing=spacing)
            average = metrics.compute_average_surface_distance(a, b, symmetric=True, **kw)
            hausdorff = metrics.compute_hausdorff_distance(a, b, percentile=95, **kw)
            close(assd(p, t, spacing), average.item(), 1e-4)
            close(hd95(p, t, spacing), hausdorff.item(), 1e-4)

def test_boundary_f_against_others():
    a, b = squares()
    def outside(m): # as DAVIS draws it
        return (m!=np.roll(m, -1, 0)) | (m!=np.roll(m, -1, 1)) | (m!=np.roll(m, (-1,-1), (0,1)))
    d = cdist(np.argwhere(outside(a)), np.argwhere(outside(b)))
    close((d.min(0)<=1).mean(), 50/96) # what the other convention makes of 48/92
    metrics = pytest.importorskip('monai.metrics')
    pred, truth = (torch.from_numpy(o)[None,None] for o in (b, a))
    dice = metrics.compute_surface_dice(pred, truth, class_thresholds=[1.], include_background=True)
    close(boundary_f(b, a, 1), dice.item()) # the same where both outlines have the same length

def test_contour_distance_against_scipy():
    rng = np.random.default_rng(0)
    for classes,reach in ((2,13), (3,40), (2,130)):
        y, known = blobs(rng, (90,150), classes, 8), blobs(rng, (90,150), sigma=6)>0
        exact = np.full(y.shape, np.inf)
        for c in range(classes):
            other = known&(y!=c)
            exact[y==c] = ndimage.distance_transform_edt(~other)[y==c]-.5
        got = contour_distance(torch.from_numpy(y)[None], torch.from_numpy(known)[None], reach=reach, classes=classes)
        got = got[0].numpy()
        close(got[exact<=reach], exact[exact<=reach], 1e-4)
        assert np.isinf(got[exact>reach]).all()

def test_structural_error_by_hand():
    rng = np.random.default_rng(0)
    p, r, ok = rng.random((9,11)), (rng.random((9,11))>.5).astype(float), rng.random((9,11))>.25
    def window(i, j):
        "Pixels around one, the border repeated, and their Gaussian weights"
        for a in (-1, 0, 1):
            for b in (-1, 0, 1):
                yield min(max(i+a, 0), 8), min(max(j+b, 0), 10), np.exp(-(a*a+b*b)/(2*1.5**2))
    def standard(x, i, j):
        v, w = np.array([[x[a,b], weight] for a,b,weight in window(i, j) if ok[a,b]]).T
        mean = np.average(v, weights=w)
        deviation = np.sqrt(np.average((v-mean)**2, weights=w))
        return (x[i,j]-mean+.01)/(deviation+.01)
    tp, tr, tok = (torch.from_numpy(o)[None] for o in (p, r, ok))
    e = structural_error(tp[None], tr[None], tok)[0,0]
    for i,j in np.argwhere(ok): close(e[i,j], abs(standard(r, i, j)-standard(p, i, j)))

def test_boundary_relaxation_by_hand():
    rng = np.random.default_rng(0)
    y, logits = blobs(rng, (12,14), 3, 1.5), rng.normal(size=(3,12,14))
    y[3:5] = IGNORE
    p = np.exp(logits)/np.exp(logits).sum(0)
    for inside in (False, True):
        loss = []
        for i,j in np.argwhere(y!=IGNORE):
            accepted = set(np.unique(y[max(i-2,0):i+3, max(j-2,0):j+3])) - {IGNORE}
            if inside and y[i,j]==0: accepted = {0}
            loss.append(-np.log(sum(p[c,i,j] for c in accepted)))
        close(boundary_relaxation(torch.from_numpy(logits)[None], torch.from_numpy(y)[None], 2, inside), np.mean(loss))

def test_wasserstein_against_scipy_and_pot():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=83), rng.gamma(2, size=59)
    close(wasserstein(x, z), stats.wasserstein_distance(x, z), 1e-12)
    ot = pytest.importorskip('ot')
    for p in (1, 2, 3): close(wasserstein(x, z, p)**p, ot.wasserstein_1d(x, z, p=p), 1e-9)
    x, z = rng.normal(size=(90,6)), rng.normal(size=(70,6))*[1,1,2,1,.5,1]+.3
    for p in (1, 2):
        theirs = ot.sliced_wasserstein_distance(x, z, n_projections=3000, seed=1, p=p)
        close(sliced_wasserstein(x, z, p, 3000)/theirs, 1, .03)

def test_mmd_against_scikit_learn():
    from sklearn.metrics.pairwise import rbf_kernel
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(40,5)), rng.normal(size=(30,5))+.5
    def k(a, b): return rbf_kernel(a, b, gamma=1/(2*1.7**2))
    within_x, within_z = (k(x, x).sum()-40)/(40*39), (k(z, z).sum()-30)/(30*29)
    close(mmd2(x, z, 1.7), within_x+within_z-2*k(x, z).mean(), 1e-12)

def test_multi_scale_mmd_by_hand():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(12,3)), rng.normal(size=(9,3))+.5
    def k(a, b, s): return np.exp(-((a-b)**2).sum()/(2*s*s))
    def within(points, s): return np.mean([k(a, b, s) for a,b in permutations(points, 2)])
    def between(s): return np.mean([k(a, b, s) for a,b in product(x, z)])
    def unbiased(s): return within(x, s)+within(z, s)-2*between(s)
    close(mmd2(x, z, scales=SCALES), sum(unbiased(o*median_distance(x, z)) for o in (.25,.5,1,2,4)), 1e-12)
    both = np.r_[x, z]
    for o in relabel(12, 9, 5): close(mmd2_of(kernel_matrix(x, z, 1.), o), mmd2(both[o], both[~o], 1.), 1e-12)

def test_mmd_test_against_scipy():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(25,2)), rng.normal(size=(20,2))+.35
    kernel = kernel_matrix(x, z)
    def statistic(i, j): return mmd2_of(kernel, np.isin(np.arange(45), i.astype(int)))
    theirs = stats.permutation_test((np.arange(25.), np.arange(25., 45.)), statistic, n_resamples=4000,
                                    alternative='greater', rng=1)
    value, p = mmd_test(x, z, times=4000, seed=2)
    close(value, theirs.statistic, 1e-12)
    close(p, theirs.pvalue, .02)

@pytest.mark.parametrize('n', [50, 3000])
def test_binned_density_against_scipy(n):
    rng = np.random.default_rng(n)
    v = np.concatenate([rng.normal(.1, .02, n), rng.gamma(3, .05, n//2)])
    at, exact = cell_centres(-.5, 1.5, 2**14)[::64], stats.gaussian_kde(v)
    got = row_densities(sum(bin_row(o, -.5, 1.5) for o in np.array_split(v, 3)), -.5, 1.5)[::64]
    assert abs(got-exact(at)).max()<1e-3*exact(at).max()
    whole = row_densities(bin_row(v, -.5, 1.5), -.5, 1.5)
    close(whole.sum()*2/2**14, 1, 1e-6)

def test_calibration_against_torchmetrics():
    tm = pytest.importorskip('torchmetrics.functional.classification')
    rng = np.random.default_rng(0)
    logits, y = torch.from_numpy(rng.normal(size=(4,3,20,20))*2), torch.from_numpy(rng.integers(0, 3, (4,20,20)))
    y[:, :4] = IGNORE
    p = logits.softmax(1)
    for bins in (5, 15):
        theirs = tm.multiclass_calibration_error(p.float(), y, 3, bins, 'l1', ignore_index=IGNORE)
        close(ece(*confidence_and_hit(p, y, None, axis=1), bins=bins), theirs, 1e-5)
        for c in range(3):
            is_c = torch.where(y==IGNORE, IGNORE, (y==c).long())
            theirs = tm.binary_calibration_error(p[:,c].float(), is_c, bins, 'l1', ignore_index=IGNORE)
            close(ece(*confidence_and_hit(p, y, c, axis=1), bins=bins), theirs, 1e-5)
    from sklearn.metrics import brier_score_loss
    said, hit = confidence_and_hit(p, y, 1, axis=1)
    close(brier(said, hit), brier_score_loss(hit, said), 1e-9)

def test_macro_against_torchmetrics():
    "Means over images, with our conventions for empty masks made explicit"
    tm = pytest.importorskip('torchmetrics.functional.classification')
    import pandas as pd
    rng = np.random.default_rng(0)
    none, full = np.zeros((8,8), int), np.ones((8,8), int)
    pairs = [(blobs(rng), blobs(rng)) for _ in range(5)] + [(none, none), (none, full)] # prediction and truth
    rows = [dict(id=str(i), site=str(i%2), confusion=Confusion().add(p, t)) for i,(p,t) in enumerate(pairs)]
    ours = macro(pd.DataFrame(rows), 'id')

    def theirs(f, known): return np.mean([f(torch.from_numpy(p), torch.from_numpy(t)).item() for p,t in known])
    with_pred, with_truth = [o for o in pairs if o[0].any()], [o for o in pairs if o[1].any()]
    with_either = [o for o in pairs if o[0].any() or o[1].any()]
    close(ours['iou'], theirs(tm.binary_jaccard_index, with_either))
    close(ours['precision'], theirs(tm.binary_precision, with_pred))
    close(ours['recall'], theirs(tm.binary_recall, with_truth))
    assert (ours['n_precision'], ours['n_recall'], ours['empty'])==(len(with_pred), len(with_truth), 1)

def test_ignore_outline_by_hand():
    rng = np.random.default_rng(0)
    t = blobs(rng, (20,24), 3)
    t[:3] = IGNORE
    got = ignore_outline(t, 2.5)
    others = {c: np.argwhere((t!=c)&(t!=IGNORE)) for c in range(3)}
    for i,j in np.argwhere(t!=IGNORE):
        rows, columns = (others[t[i,j]]-(i,j)).T
        near = np.hypot(rows, columns).min()-.5<2.5
        assert got[i,j]==(IGNORE if near else t[i,j])
    assert (got[t==IGNORE]==IGNORE).all()

def test_prithvi_statistics_from_digital_numbers():
    "Those of the published configuration, by our bands' names and in reflectance"
    stats = prithvi_stats(['B8A','B02'])
    close(stats.mean, [.2497,.0775], 1e-12)
    close(stats.std, [.1368,.1282], 1e-12)

# What must not matter

FLIP = flip_matrix(.95, .2)
LOSSES = dict(
    ce         = SegLoss(a_gdl=0),
    weights    = SegLoss(a_gdl=0, class_weights=[1.,4.]),
    edge       = SegLoss(a_gdl=0, edge_k=3.),
    gdl        = SegLoss(a_ce=0),
    ssl        = SegLoss(0, 0, 1),
    all        = SegLoss(1, 1, 1, 3.),
    forward    = CoarseLoss('forward', FLIP),
    relax      = CoarseLoss('relax', width=2),
    relax_both = CoarseLoss('relax', width=2, inside=False))

def batch(seed=0):
    rng = np.random.default_rng(seed)
    y = np.stack([blobs(rng, (32,32)) for _ in range(3)])
    hidden = np.stack([blobs(rng, (32,32), sigma=4) for _ in range(3)])>0
    y[hidden] = IGNORE
    return torch.from_numpy(rng.normal(size=(3,2,32,32))).float(), torch.from_numpy(y)

@pytest.mark.parametrize('name', LOSSES)
def test_duplicated_batch(name):
    logits, y = batch()
    close(LOSSES[name](logits, y), LOSSES[name](logits.repeat(2,1,1,1), y.repeat(2,1,1)), 1e-5)

@pytest.mark.parametrize('name', LOSSES)
def test_ignored_pixels_change_nothing(name):
    logits, y = batch()
    known = (y!=IGNORE)[:,None].expand_as(logits)
    other = torch.where(known, logits, 30*torch.randn(logits.shape))
    def loss_and_gradient(z):
        z = z.clone().requires_grad_()
        loss = LOSSES[name](z, y)
        loss.backward()
        return loss.item(), z.grad
    (loss, grad), (other_loss, other_grad) = loss_and_gradient(logits), loss_and_gradient(other)
    close(loss, other_loss, 1e-6)
    close(grad[known], other_grad[known], 1e-6)
    for g in (grad, other_grad): assert g.isfinite().all() and g[~known].abs().max()<1e-7

@pytest.mark.parametrize('name', LOSSES)
def test_extreme_logits_and_flat_labels_have_finite_gradients(name):
    y = torch.zeros(2,16,16, dtype=torch.long)
    y[1,4:9,4:9] = 1
    for scale in (0., 1e-3, 200.):
        z = (scale*torch.randn(2,2,16,16)).requires_grad_()
        LOSSES[name](z, y).backward()
        assert z.grad.isfinite().all()
    nothing = torch.full_like(y, IGNORE)
    assert LOSSES[name](torch.randn(2,2,16,16), nothing).isfinite()

def test_ignored_pixels_change_no_metric():
    rng = np.random.default_rng(0)
    p, t = blobs(rng), blobs(rng)
    t[blobs(rng)>0] = IGNORE
    other = np.where(t==IGNORE, rng.integers(0, 2, t.shape), p)
    def counts(p, t): return Confusion().add(p, t).n
    def close_f(p, t): return boundary_f(p, t, 1)
    def tile_f(p, t): return boundary_f(p, t, 1, border='ignore')
    for f in (counts, boundary_iou, boundary_f, close_f, tile_f, assd, hd95, boundary_bias, trimap_iou):
        np.testing.assert_array_equal(f(p, t), f(other, t))
    garbage = np.where(t==IGNORE, 7, p)
    assert torch.equal(estimate_flip([garbage], [t])['flip'], estimate_flip([p], [t])['flip'])
