"Against reference numbers, independent libraries, and what must not matter."
import json
import numpy as np, pytest, torch
from scipy import ndimage, stats
from scipy.spatial.distance import cdist

from minec2f.attention import CBAM
from minec2f.study.binned import *
from minec2f.boundary import *
from minec2f.study.calibration import brier, confidence_and_hit, ece
from minec2f.contour import contour_distance
from minec2f.methods.distill import *
from minec2f.losses import *
from minec2f.evaluate import macro
from minec2f.losses import _structural
from minec2f.metrics import Confusion
from minec2f.noisy import *
from minec2f.study.shift import *

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
ZT, ZS = (torch.tensor(o, dtype=F64).T[None] for o in ([[2.,-1.],[.5,.5],[-3.,3.]], [[1.,0.],[0.,1.],[-1.,1.]]))

# Reference numbers

def test_v1_cbam(ref):
    gate = CBAM(2, reduction=2).double().eval()
    with torch.no_grad():
        gate.channel.mlp[0].weight.copy_(torch.tensor([[1.,-1.]])); gate.channel.mlp[2].weight.copy_(torch.tensor([[1.],[.5]]))
        gate.spatial.conv.weight.zero_(); gate.spatial.conv.weight[0,:,3,3] = torch.tensor([1.,-1.], dtype=F64)
        gate.spatial.bn.weight.fill_(1)
        channel, spatial = gate.gates(FT)
        out = gate(FT)
    for ours,name in ((channel.flatten(), "channel_gate"), (spatial[0,0], "spatial_gate"), (out[0], "out")):
        close(ours, ref["V1_cbam"][name])

def test_v2_distillation(ref):
    valid = torch.ones(1, 3, dtype=torch.bool)
    def pixel(i, tau): return prediction_distillation(ZS[...,i:i+1], ZT[...,i:i+1], valid[:,:1].double(), valid[:,:1], tau)/tau**2
    for tau in (1, 2): close([pixel(i, tau) for i in range(3)], ref['V2_kd'][f'kl_T{tau}'])
    close(prediction_distillation(ZS, ZT, valid.double(), valid, 2.), ref['V2_kd']['mean_T2xT2'])
    w = confidence_weight(ZT.softmax(1))
    close(w[0], ref['V2_kd']['w_conf'])
    close(prediction_distillation(ZS, ZT, w, valid, 2.), ref['V2_kd']['attentive_T2'])

def test_v3_generalised_dice(ref):
    p = torch.tensor([[.9,.1],[.8,.2],[.4,.6],[.3,.7]], dtype=F64).T[None]
    def gdl(*y): return generalised_dice(p, torch.tensor([y]), smooth=0.)
    close([gdl(0,0,1,1), gdl(0,0,0,1), gdl(0,0,0,0)], [ref['V3_gdl'][o] for o in ('balanced','y0001','absent_fg_w_eq_max')])

def test_v4_v5_v6_features(ref):
    close(channelwise_distillation([FS], [FT], 4.), ref['V4_cwd_T4'])
    close(attention_transfer([FS], [FT]), ref['V5_at_mean'])
    close(feature_distillation([FS], [FT]), ref['V6_attnfd_like']['per_sample_sum'])

def squares():
    a = np.zeros((64,64), np.uint8); a[20:44,20:44] = 1
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
    x, z, grid = np.array([0.,1,2,3]), np.array([1.,2,4,7]), np.linspace(-20, 30, 20001)
    v, f, g = ref['V8_shift'], kde(x, grid), kde(z, grid)
    close([median_distance(x, z), mmd2(x, z), wasserstein(x, z), wasserstein(x, z, 2), sliced_wasserstein(x, z)],
          [v[o] for o in ('median_pairwise','mmd2_unbiased','w1','w2','w2')])
    close([overlap(f, g, grid), js_divergence(f, g), band_shift(x, z)['ks']], [v[o] for o in ('ovl','js_bits','ks')])
    spread = [np.sqrt(np.trapezoid(grid**2*o, grid)-np.trapezoid(grid*o, grid)**2) for o in (f, g)]
    close(spread, [np.hypot(v[f'kde_bw_{n}'], o.std()) for n,o in (('X',x), ('Z',z))])

def test_v9_structural(ref):
    r, valid = torch.zeros(1,1,5,5, dtype=F64), torch.ones(1,5,5, dtype=torch.bool); r[...,1:4,1:4] = 1
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
    assert [n[128], n[256], n[512], n[1024], 4*n[256]]==[v[o] for o in ('seg128','C256','C512','C1024','fpn4')]

# Other implementations

def blobs(rng, shape=(48,60), classes=2, sigma=3):
    return ndimage.gaussian_filter(rng.normal(size=(classes, *shape)), (0,sigma,sigma)).argmax(0)

@pytest.mark.parametrize('classes', [2, 4])
def test_confusion_against_torchmetrics(classes):
    tm = pytest.importorskip('torchmetrics.functional.classification')
    rng = np.random.default_rng(classes)
    target = np.stack([blobs(rng, classes=classes) for _ in range(5)])
    pred = np.where(rng.random(target.shape)<.7, target, rng.integers(0, classes, target.shape))
    target[rng.random(target.shape)<.2] = 255
    cm = sum((Confusion(classes).add(p, t) for p,t in zip(pred, target)), Confusion(classes))
    def theirs(f, **kw): return f(torch.from_numpy(pred), torch.from_numpy(target), classes, ignore_index=255, **kw)
    close(cm.iou, theirs(tm.multiclass_jaccard_index, average=None)); close(cm.miou, theirs(tm.multiclass_jaccard_index))
    for ours,f in ((cm.f1, tm.multiclass_f1_score), (cm.precision, tm.multiclass_precision), (cm.recall, tm.multiclass_recall)):
        close(ours, theirs(f, average=None))
    close(cm.accuracy, theirs(tm.multiclass_accuracy, average='micro'))

@pytest.mark.parametrize('classes', [2, 3])
def test_generalised_dice_against_monai(classes):
    losses = pytest.importorskip('monai.losses')
    torch.manual_seed(classes)
    logits, y = torch.randn(3, classes, 16, 16, dtype=F64), torch.randint(0, classes, (3,16,16))
    theirs = losses.GeneralizedDiceLoss(to_onehot_y=True, softmax=True, batch=True, smooth_nr=0., smooth_dr=1e-12)
    for y in (y, y.clamp(max=classes-2)): # the second without the last class
        close(generalised_dice(logits.softmax(1), y, smooth=0.), theirs(logits, y[:,None]))

def test_distances_against_monai():
    metrics = pytest.importorskip('monai.metrics')
    rng = np.random.default_rng(0)
    for spacing in ((1.,1.), (10.,20.)):
        for _ in range(10):
            p, t = blobs(rng), blobs(rng)
            a, b = (torch.from_numpy(o)[None,None] for o in (p, t))
            kw = dict(include_background=True, spacing=spacing)
            close(assd(p, t, spacing), metrics.compute_average_surface_distance(a, b, symmetric=True, **kw).item(), 1e-4)
            close(hd95(p, t, spacing), metrics.compute_hausdorff_distance(a, b, percentile=95, **kw).item(), 1e-4)

def test_boundary_f_against_others():
    a, b = squares()
    def outside(m): return (m!=np.roll(m, -1, 0)) | (m!=np.roll(m, -1, 1)) | (m!=np.roll(m, (-1,-1), (0,1))) # as DAVIS draws it
    d = cdist(np.argwhere(outside(a)), np.argwhere(outside(b)))
    close((d.min(0)<=1).mean(), 50/96) # what the other convention makes of 48/92
    metrics = pytest.importorskip('monai.metrics')
    dice = metrics.compute_surface_dice(*(torch.from_numpy(o)[None,None] for o in (b, a)), class_thresholds=[1.], include_background=True)
    close(boundary_f(b, a, 1), dice.item()) # the same where both outlines have the same length

def test_contour_distance_against_scipy():
    rng = np.random.default_rng(0)
    for classes,reach in ((2,13), (3,40), (2,130)):
        y, known = blobs(rng, (90,150), classes, 8), blobs(rng, (90,150), sigma=6)>0
        exact = np.full(y.shape, np.inf)
        for c in range(classes): exact[y==c] = ndimage.distance_transform_edt(~(known&(y!=c)))[y==c]-.5
        got = contour_distance(torch.from_numpy(y)[None], torch.from_numpy(known)[None], reach=reach, classes=classes)[0].numpy()
        close(got[exact<=reach], exact[exact<=reach], 1e-4)
        assert np.isinf(got[exact>reach]).all()

def test_structural_error_by_hand():
    rng = np.random.default_rng(0)
    p, r, ok = rng.random((9,11)), (rng.random((9,11))>.5).astype(float), rng.random((9,11))>.25
    g = np.exp(-np.add.outer(*[np.arange(-1, 2)**2]*2)/(2*1.5**2))
    def standard(x, i, j):
        at = [(min(max(i+a,0),8), min(max(j+b,0),10), g[a+1,b+1]) for a in (-1,0,1) for b in (-1,0,1)]
        v, w = np.array([[x[a,b], k] for a,b,k in at if ok[a,b]]).T
        mean = np.average(v, weights=w)
        return (x[i,j]-mean+.01)/(np.sqrt(np.average((v-mean)**2, weights=w))+.01)
    e = structural_error(*(torch.from_numpy(o)[None,None] for o in (p, r)), torch.from_numpy(ok)[None])[0,0]
    for i,j in np.argwhere(ok): close(e[i,j], abs(standard(r, i, j)-standard(p, i, j)))

def test_boundary_relaxation_by_hand():
    rng = np.random.default_rng(0)
    y, logits = blobs(rng, (12,14), 3, 1.5), rng.normal(size=(3,12,14))
    y[3:5] = 255
    p = np.exp(logits)/np.exp(logits).sum(0)
    for inside in (False, True):
        loss = []
        for i,j in np.argwhere(y<255):
            near = set(np.unique(y[max(i-2,0):i+3, max(j-2,0):j+3])) - {255}
            loss.append(-np.log(sum(p[c,i,j] for c in ({0} if inside and y[i,j]==0 else near))))
        close(boundary_relaxation(torch.from_numpy(logits)[None], torch.from_numpy(y)[None], 2, inside), np.mean(loss))

def test_wasserstein_against_scipy_and_pot():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=83), rng.gamma(2, size=59)
    close(wasserstein(x, z), stats.wasserstein_distance(x, z), 1e-12)
    ot = pytest.importorskip('ot')
    for p in (1, 2, 3): close(wasserstein(x, z, p)**p, ot.wasserstein_1d(x, z, p=p), 1e-9)
    x, z = rng.normal(size=(90,6)), rng.normal(size=(70,6))*[1,1,2,1,.5,1]+.3
    for p in (1, 2): close(sliced_wasserstein(x, z, p, 3000)/ot.sliced_wasserstein_distance(x, z, n_projections=3000, seed=1, p=p), 1, .03)

def test_mmd_against_scikit_learn():
    from sklearn.metrics.pairwise import rbf_kernel
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(40,5)), rng.normal(size=(30,5))+.5
    xx, zz, xz = (rbf_kernel(a, b, gamma=1/(2*1.7**2)) for a,b in ((x,x), (z,z), (x,z)))
    close(mmd2(x, z, 1.7), (xx.sum()-40)/(40*39)+(zz.sum()-30)/(30*29)-2*xz.mean(), 1e-12)

def test_multi_scale_mmd_by_hand():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(12,3)), rng.normal(size=(9,3))+.5
    def k(a, b, s): return np.exp(-((a-b)**2).sum()/(2*s*s))
    def unbiased(s):
        xx, zz = (np.mean([k(a, b, s) for i,a in enumerate(o) for j,b in enumerate(o) if i!=j]) for o in (x, z))
        return xx+zz-2*np.mean([k(a, b, s) for a in x for b in z])
    close(mmd2(x, z, scales=SCALES), sum(unbiased(o*median_distance(x, z)) for o in (.25,.5,1,2,4)), 1e-12)
    many = relabel(12, 9, 5)
    for o in many: close(mmd2_of(kernel_matrix(x, z, 1.), o), mmd2(np.r_[x,z][o], np.r_[x,z][~o], 1.), 1e-12)

def test_mmd_test_against_scipy():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(25,2)), rng.normal(size=(20,2))+.35
    kernel = kernel_matrix(x, z)
    def statistic(i, j): return mmd2_of(kernel, np.isin(np.arange(45), i.astype(int)))
    theirs = stats.permutation_test((np.arange(25.), np.arange(25., 45.)), statistic, n_resamples=4000, alternative='greater', rng=1)
    ours = mmd_test(x, z, times=4000, seed=2)
    close(ours[0], theirs.statistic, 1e-12); close(ours[1], theirs.pvalue, .02)

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
    y[:, :4] = 255
    p = logits.softmax(1)
    for bins in (5, 15):
        theirs = tm.multiclass_calibration_error(p.float(), y, 3, bins, 'l1', ignore_index=255)
        close(ece(*confidence_and_hit(p, y, None, axis=1), bins=bins), theirs, 1e-5)
        for c in range(3):
            theirs = tm.binary_calibration_error(p[:,c].float(), torch.where(y==255, 255, (y==c).long()), bins, 'l1', ignore_index=255)
            close(ece(*confidence_and_hit(p, y, c, axis=1), bins=bins), theirs, 1e-5)
    from sklearn.metrics import brier_score_loss
    said, hit = confidence_and_hit(p, y, 1, axis=1)
    close(brier(said, hit), brier_score_loss(hit, said), 1e-9)

def test_macro_against_torchmetrics():
    "Means over images, with our conventions for empty masks made explicit"
    tm = pytest.importorskip('torchmetrics.functional.classification')
    import pandas as pd
    rng = np.random.default_rng(0)
    pairs = [(blobs(rng), blobs(rng)) for _ in range(5)] + [(np.zeros((8,8), int),)*2, (np.zeros((8,8), int), np.ones((8,8), int))]
    table = pd.DataFrame([dict(id=str(i), site=str(i%2), confusion=Confusion().add(p, t)) for i,(p,t) in enumerate(pairs)])
    ours = macro(table, 'id')
    close(ours['iou'], np.mean([tm.binary_jaccard_index(*(torch.from_numpy(o) for o in pair)).item() for k,pair in enumerate(pairs) if k!=5]))
    has_truth, has_pred = ([k for k,o in enumerate(pairs) if o[i].any()] for i in (1,0))
    for k,f,known in (('precision', tm.binary_precision, has_pred), ('recall', tm.binary_recall, has_truth)):
        close(ours[k], np.mean([f(*(torch.from_numpy(o) for o in pairs[i])).item() for i in known])); assert ours[f'n_{k}']==len(known)
    assert ours['empty']==1

def test_ignore_outline_by_hand():
    rng = np.random.default_rng(0)
    t = blobs(rng, (20,24), 3); t[:3] = 255
    got = ignore_outline(t, 2.5)
    at = {c: np.argwhere((t!=c)&(t!=255)) for c in range(3)}
    for i,j in np.argwhere(t<255):
        near = np.hypot(*(at[t[i,j]]-(i,j)).T).min()-.5<2.5
        assert got[i,j]==(255 if near else t[i,j])
    assert (got[t==255]==255).all()

# What must not matter

FLIP = flip_matrix(.95, .2)
LOSSES = dict(ce=SegLoss(a_gdl=0), weights=SegLoss(a_gdl=0, class_weights=[1.,4.]), edge=SegLoss(a_gdl=0, edge_k=3.), gdl=SegLoss(a_ce=0),
              ssl=SegLoss(0, 0, 1), all=SegLoss(1, 1, 1, 3.), forward=CoarseLoss('forward', FLIP), relax=CoarseLoss('relax', width=2),
              relax_both=CoarseLoss('relax', width=2, inside=False))

def batch(seed=0):
    rng = np.random.default_rng(seed)
    y = torch.from_numpy(np.stack([blobs(rng, (32,32)) for _ in range(3)]))
    y[torch.from_numpy(np.stack([blobs(rng, (32,32), sigma=4) for _ in range(3)]))>0] = 255
    return torch.from_numpy(rng.normal(size=(3,2,32,32))).float(), y

@pytest.mark.parametrize('name', LOSSES)
def test_duplicated_batch(name):
    logits, y = batch()
    close(LOSSES[name](logits, y), LOSSES[name](logits.repeat(2,1,1,1), y.repeat(2,1,1)), 1e-5)

@pytest.mark.parametrize('name', LOSSES)
def test_ignored_pixels_change_nothing(name):
    logits, y = batch()
    grads = []
    for z in (logits, torch.where((y==255)[:,None], 30*torch.randn(logits.shape), logits)):
        z = z.clone().requires_grad_()
        loss = LOSSES[name](z, y)
        loss.backward()
        grads.append((loss.item(), z.grad))
    close(grads[0][0], grads[1][0], 1e-6)
    known = (y!=255)[:,None].expand_as(logits)
    close(grads[0][1][known], grads[1][1][known], 1e-6)
    for _,g in grads: assert g.isfinite().all() and g[~known].abs().max()<1e-7

@pytest.mark.parametrize('name', LOSSES)
def test_extreme_logits_and_flat_labels_have_finite_gradients(name):
    y = torch.zeros(2,16,16, dtype=torch.long); y[1,4:9,4:9] = 1
    for scale in (0., 1e-3, 200.):
        z = (scale*torch.randn(2,2,16,16)).requires_grad_()
        LOSSES[name](z, y).backward()
        assert z.grad.isfinite().all()
    nothing = torch.full_like(y, 255)
    assert LOSSES[name](torch.randn(2,2,16,16), nothing).isfinite()

def test_ignored_pixels_change_no_metric():
    rng = np.random.default_rng(0)
    p, t = blobs(rng), blobs(rng)
    t[blobs(rng)>0] = 255
    other = np.where(t==255, rng.integers(0, 2, t.shape), p)
    measures = (lambda o: Confusion().add(o, t).n, lambda o: boundary_iou(o, t, 2), lambda o: boundary_f(o, t, 2), lambda o: assd(o, t),
                lambda o: hd95(o, t), lambda o: boundary_bias(o, t), lambda o: trimap_iou(o, t))
    for f in measures: np.testing.assert_array_equal(f(p), f(other))
    for border in ('outline', 'ignore'): assert boundary_f(p, t, 1, border=border)==boundary_f(other, t, 1, border=border)
    garbage = np.where(t==255, 7, p)
    assert torch.equal(estimate_flip([garbage], [t])['flip'], estimate_flip([p], [t])['flip'])
