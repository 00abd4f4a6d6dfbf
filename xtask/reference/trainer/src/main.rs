#![allow(unsafe_code, clippy::pedantic, clippy::unwrap_used, clippy::too_many_arguments, clippy::needless_range_loop)]
#![allow(clippy::excessive_precision, clippy::mut_from_ref, clippy::manual_clamp)]
//! The yardstick of `atoll bench trainer`: one model's training step written out by hand on candle, as it was first measured.
//!
//! It is not built upon and not improved; the product must keep up with it. Argument: how many steps. Prints one JSON line:
//! tokens of a batch over the median time of a step, threads, and the most memory that the process had. Its computation has
//! no fixed order of addition, and a rotary table, sums and attention as simple as they come.

use std::sync::Mutex;
use std::time::Instant;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, InplaceOp1, Layout, Result, Shape, Storage, Tensor, Var};
use gemm::Parallelism;
use rayon::prelude::*;

#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn sl<'a>(s: &'a CpuStorage, l: &Layout) -> &'a [f32] {
    let (a, b) = l.contiguous_offsets().expect("contiguous");
    match s {
        CpuStorage::F32(v) => &v[a..b],
        _ => panic!(),
    }
}

fn with<R>(t: &Tensor, f: impl FnOnce(&[f32]) -> R) -> R {
    let (s, l) = t.storage_and_layout();
    match &*s {
        Storage::Cpu(c) => f(sl(c, l)),
        _ => panic!(),
    }
}

fn par() -> Parallelism {
    Parallelism::Rayon(0)
}

/// `c[m, n] = alpha * a * b`, with row and column strides of `a` and `b`.
fn mm(
    m: usize,
    n: usize,
    k: usize,
    c: &mut [f32],
    rc: isize,
    a: &[f32],
    ra: isize,
    ca: isize,
    b: &[f32],
    rb: isize,
    cb: isize,
    alpha: f32,
    p: Parallelism,
) {
    // SAFETY: every caller passes sizes and strides of matrices that lie inside the slices.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            rc,
            false,
            a.as_ptr(),
            ca,
            ra,
            b.as_ptr(),
            cb,
            rb,
            0.0,
            alpha,
            false,
            false,
            false,
            p,
        )
    }
}

struct Lin;

impl CustomOp2 for Lin {
    fn name(&self) -> &'static str {
        "lin"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, k) = lx.shape().dims2()?;
        let (n, _) = lw.shape().dims2()?;
        let mut y = vec![0f32; m * n];
        mm(m, n, k, &mut y, n as isize, sl(x, lx), k as isize, 1, sl(w, lw), 1, k as isize, 1.0, par());
        Ok((CpuStorage::F32(y), (m, n).into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (m, k) = x.dims2()?;
        let n = w.dim(0)?;
        let g = g.contiguous()?;
        let (mut dx, mut dw) = (vec![0f32; m * k], vec![0f32; n * k]);
        with(&g, |g| {
            with(w, |w| mm(m, k, n, &mut dx, k as isize, g, n as isize, 1, w, k as isize, 1, 1.0, par()));
            with(x, |x| mm(n, k, m, &mut dw, k as isize, g, 1, n as isize, x, k as isize, 1, 1.0, par()));
        });
        Ok((Some(Tensor::from_vec(dx, (m, k), &Device::Cpu)?), Some(Tensor::from_vec(dw, (n, k), &Device::Cpu)?)))
    }
}

struct Rms;

impl CustomOp2 for Rms {
    fn name(&self) -> &'static str {
        "rms"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, d) = lx.shape().dims2()?;
        let (x, w) = (sl(x, lx), sl(w, lw));
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(d).zip(x.par_chunks(d)).with_min_len(256).for_each(|(y, x)| {
            let r = (x.iter().map(|v| v * v).sum::<f32>() / d as f32 + 1e-5).sqrt().recip();
            for i in 0..d {
                y[i] = x[i] * r * w[i];
            }
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, d) = x.dims2()?;
        let g = g.contiguous()?;
        let mut dx = vec![0f32; n * d];
        let row = |w: &[f32], mut dw: Vec<f32>, dx: &mut [f32], x: &[f32], g: &[f32]| {
            let r = (x.iter().map(|v| v * v).sum::<f32>() / d as f32 + 1e-5).sqrt().recip();
            let mut dot = 0f32;
            for i in 0..d {
                dot += g[i] * w[i] * x[i];
            }
            let c = dot * r * r * r / d as f32;
            for i in 0..d {
                dx[i] = g[i] * w[i] * r - x[i] * c;
                dw[i] += g[i] * x[i] * r;
            }
            dw
        };
        let add = |mut a: Vec<f32>, b: Vec<f32>| {
            for i in 0..d {
                a[i] += b[i];
            }
            a
        };
        let dw = with(x, |x| {
            with(w, |w| {
                with(&g, |g| {
                    dx.par_chunks_mut(d)
                        .zip(x.par_chunks(d))
                        .zip(g.par_chunks(d))
                        .with_min_len(256)
                        .fold(|| vec![0f32; d], |dw, ((dx, x), g)| row(w, dw, dx, x, g))
                        .reduce(|| vec![0f32; d], add)
                })
            })
        });
        Ok((Some(Tensor::from_vec(dx, (n, d), &Device::Cpu)?), Some(Tensor::from_vec(dw, d, &Device::Cpu)?)))
    }
}

#[inline]
fn sig(x: f32) -> f32 {
    1.0 / (1.0 + expf(-x))
}

#[inline(always)]
fn expf(x: f32) -> f32 {
    let x = x.max(-87.0).min(88.0);
    let z = x * std::f32::consts::LOG2_E + 12582912.0;
    let n = z - 12582912.0;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p =
        ((((1.98756915e-4 * r + 1.39819995e-3) * r + 8.33345191e-3) * r + 4.16657960e-2) * r + 1.66666655e-1) * r + 5.00000012e-1;
    let y = p * r * r + r + 1.0;
    f32::from_bits((y.to_bits() as i32 + ((n as i32) << 23)) as u32)
}

fn max(x: &[f32]) -> f32 {
    x.iter().cloned().fold(f32::MIN, |a, b| if a > b { a } else { b })
}

struct Swiglu;

impl CustomOp1 for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, f2) = l.shape().dims2()?;
        let f = f2 / 2;
        let x = sl(x, l);
        let mut y = vec![0f32; n * f];
        y.par_chunks_mut(f).zip(x.par_chunks(f2)).with_min_len(128).for_each(|(y, x)| {
            let (g, u) = x.split_at(f);
            for i in 0..f {
                y[i] = g[i] * sig(g[i]) * u[i];
            }
        });
        Ok((CpuStorage::F32(y), (n, f).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (n, f2) = x.dims2()?;
        let f = f2 / 2;
        let go = g.contiguous()?;
        let mut dx = vec![0f32; n * f2];
        with(x, |x| {
            with(&go, |go| {
                dx.par_chunks_mut(f2).zip(x.par_chunks(f2)).zip(go.par_chunks(f)).with_min_len(128).for_each(|((dx, x), go)| {
                    let (g, u) = x.split_at(f);
                    let (dg, du) = dx.split_at_mut(f);
                    for i in 0..f {
                        let s = sig(g[i]);
                        let sl = g[i] * s;
                        dg[i] = go[i] * u[i] * (s + sl * (1.0 - s));
                        du[i] = go[i] * sl;
                    }
                })
            })
        });
        Ok(Some(Tensor::from_vec(dx, (n, f2), &Device::Cpu)?))
    }
}

struct Ce {
    y: Vec<u32>,
}

impl CustomOp1 for Ce {
    fn name(&self) -> &'static str {
        "ce"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, v) = l.shape().dims2()?;
        let row = |(x, y): (&[f32], &u32)| {
            let m = max(x);
            let mut z = [0f32; 16];
            for c in x.chunks_exact(16) {
                for i in 0..16 {
                    z[i] += expf(c[i] - m);
                }
            }
            z.iter().sum::<f32>().ln() + m - x[*y as usize]
        };
        let s: f32 = sl(x, l).par_chunks(v).zip(&self.y).map(row).sum();
        Ok((CpuStorage::F32(vec![s / n as f32]), ().into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (n, v) = x.dims2()?;
        let k = g.to_scalar::<f32>()? / n as f32;
        let mut dx = vec![0f32; n * v];
        with(x, |x| {
            dx.par_chunks_mut(v).zip(x.par_chunks(v)).zip(&self.y).for_each(|((d, x), y)| {
                let m = max(x);
                let mut z = [0f32; 16];
                for (c, d) in x.chunks_exact(16).zip(d.chunks_exact_mut(16)) {
                    for i in 0..16 {
                        let e = expf(c[i] - m);
                        d[i] = e;
                        z[i] += e;
                    }
                }
                let r = k / z.iter().sum::<f32>();
                for d in d.iter_mut() {
                    *d *= r;
                }
                d[*y as usize] -= k;
            })
        });
        Ok(Some(Tensor::from_vec(dx, (n, v), &Device::Cpu)?))
    }
}

/// Rotary embedding and causal attention on packed qkv `[b * t, 3 * h * hd]`; backward recomputes the probabilities.
struct Attn {
    b: usize,
    t: usize,
    h: usize,
    hd: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Attn {
    fn load(&self, x: &[f32], b: usize, h: usize, which: usize, out: &mut [f32]) {
        let (hd, d) = (self.hd, self.h * self.hd);
        for t in 0..self.t {
            let s = &x[(b * self.t + t) * 3 * d + which * d + h * hd..][..hd];
            let o = &mut out[t * hd..(t + 1) * hd];
            if which == 2 {
                o.copy_from_slice(s);
            } else {
                let k = hd / 2;
                for i in 0..k {
                    let (c, n) = (self.cos[t * k + i], self.sin[t * k + i]);
                    o[i] = s[i] * c - s[i + k] * n;
                    o[i + k] = s[i] * n + s[i + k] * c;
                }
            }
        }
    }

    fn store(&self, g: &[f32], which: usize, t: usize, o: &mut [f32]) {
        let (hd, k) = (self.hd, self.hd / 2);
        let s = &g[t * hd..(t + 1) * hd];
        if which == 2 {
            o.copy_from_slice(s)
        } else {
            for i in 0..k {
                let (c, n) = (self.cos[t * k + i], self.sin[t * k + i]);
                o[i] = s[i] * c + s[i + k] * n;
                o[i + k] = s[i + k] * c - s[i] * n;
            }
        }
    }

    fn probs(&self, q: &[f32], k: &[f32], p: &mut [f32]) {
        let (t, hd) = (self.t, self.hd);
        let scale = 1.0 / (hd as f32).sqrt();
        mm(t, t, hd, p, t as isize, q, hd as isize, 1, k, 1, hd as isize, scale, Parallelism::None);
        for i in 0..t {
            let r = &mut p[i * t..(i + 1) * t];
            let m = max(&r[..=i]);
            for v in r[..=i].iter_mut() {
                *v = expf(*v - m);
            }
            let z = 1.0 / r[..=i].iter().sum::<f32>();
            for v in r[..=i].iter_mut() {
                *v *= z;
            }
            for v in r[i + 1..].iter_mut() {
                *v = 0.0;
            }
        }
    }
}

struct P(*mut f32);
// SAFETY: each task reaches through it only to elements of its own batch and head.
unsafe impl Send for P {}
// SAFETY: as above.
unsafe impl Sync for P {}

impl P {
    fn at(&self, o: usize, n: usize) -> &mut [f32] {
        // SAFETY: callers stay inside the vector that the pointer came from, which outlives the parallel section.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(o), n) }
    }
}

impl CustomOp1 for Attn {
    fn name(&self) -> &'static str {
        "attn"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = sl(x, l);
        let (t, hd, d) = (self.t, self.hd, self.h * self.hd);
        let mut y = vec![0f32; self.b * t * d];
        let yp = P(y.as_mut_ptr());
        (0..self.b * self.h).into_par_iter().for_each(|bh| {
            let (b, h) = (bh / self.h, bh % self.h);
            let mut w = vec![0f32; 3 * t * hd + t * t];
            let (q, r) = w.split_at_mut(t * hd);
            let (k, r) = r.split_at_mut(t * hd);
            let (v, p) = r.split_at_mut(t * hd);
            self.load(x, b, h, 0, q);
            self.load(x, b, h, 1, k);
            self.load(x, b, h, 2, v);
            self.probs(q, k, p);
            let o = yp.at(b * t * d + h * hd, (t - 1) * d + hd);
            mm(t, hd, t, o, d as isize, p, t as isize, 1, v, hd as isize, 1, 1.0, Parallelism::None);
        });
        Ok((CpuStorage::F32(y), (self.b * t, d).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let g = g.contiguous()?;
        let (t, hd, d) = (self.t, self.hd, self.h * self.hd);
        let mut dx = vec![0f32; self.b * t * 3 * d];
        let dp = P(dx.as_mut_ptr());
        let sc = 1.0 / (hd as f32).sqrt();
        let head = |x: &[f32], g: &[f32], bh: usize| {
            let (b, h) = (bh / self.h, bh % self.h);
            let n = t * hd;
            let mut w = vec![0f32; 6 * n + 2 * t * t];
            let (q, r) = w.split_at_mut(n);
            let (k, r) = r.split_at_mut(n);
            let (v, r) = r.split_at_mut(n);
            let (dq, r) = r.split_at_mut(n);
            let (dk, r) = r.split_at_mut(n);
            let (dv, r) = r.split_at_mut(n);
            let (p, ds) = r.split_at_mut(t * t);
            self.load(x, b, h, 0, q);
            self.load(x, b, h, 1, k);
            self.load(x, b, h, 2, v);
            self.probs(q, k, p);
            let go = &g[b * t * d + h * hd..];
            let no = Parallelism::None;
            mm(t, hd, t, dv, hd as isize, p, 1, t as isize, go, d as isize, 1, 1.0, no);
            mm(t, t, hd, ds, t as isize, go, d as isize, 1, v, 1, hd as isize, 1.0, no);
            for i in 0..t {
                let (p, s) = (&p[i * t..(i + 1) * t], &mut ds[i * t..(i + 1) * t]);
                let mut dot = 0f32;
                for j in 0..=i {
                    dot += p[j] * s[j];
                }
                for j in 0..=i {
                    s[j] = p[j] * (s[j] - dot) * sc;
                }
                for v in s[i + 1..].iter_mut() {
                    *v = 0.0;
                }
            }
            mm(t, hd, t, dq, hd as isize, ds, t as isize, 1, k, hd as isize, 1, 1.0, no);
            mm(t, hd, t, dk, hd as isize, ds, 1, t as isize, q, hd as isize, 1, 1.0, no);
            for (wh, gr) in [(0, &*dq), (1, &*dk), (2, &*dv)] {
                for i in 0..t {
                    self.store(gr, wh, i, dp.at((b * t + i) * 3 * d + wh * d + h * hd, hd));
                }
            }
        };
        with(x, |x| with(&g, |g| (0..self.b * self.h).into_par_iter().for_each(|bh| head(x, g, bh))));
        Ok(Some(Tensor::from_vec(dx, (self.b * t, 3 * d), &Device::Cpu)?))
    }
}

struct Up<'a>(&'a Tensor, Mutex<(&'a mut [f32], &'a mut [f32])>, f32, f32);

impl InplaceOp1 for Up<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(&self, w: &mut CpuStorage, _: &Layout) -> Result<()> {
        let CpuStorage::F32(w) = w else { panic!() };
        let mut g = self.1.lock().unwrap();
        let (m, v) = &mut *g;
        with(self.0, |g| {
            for (((w, g), m), v) in w.iter_mut().zip(g).zip(m.iter_mut()).zip(v.iter_mut()) {
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.95 * *v + 0.05 * g * g;
                *w -= 3e-4 * ((*m / self.2) / ((*v / self.3).sqrt() + 1e-8) + 0.1 * *w);
            }
        });
        Ok(())
    }
}

fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn main() -> Result<()> {
    let steps: i32 = std::env::args().nth(1).map_or(10, |steps| steps.parse().expect("the number of steps")).max(1);
    let (t, v, d, l, h, f, b) = (256usize, 4096usize, 256usize, 6usize, 4usize, 704usize, 8usize);
    let hd = d / h;
    let dev = Device::Cpu;
    let mk = |r: usize, c: usize| Var::from_tensor(&Tensor::randn(0f32, 0.02, (r, c), &dev).unwrap()).unwrap();
    let one = || Var::from_tensor(&Tensor::ones(d, DType::F32, &dev).unwrap()).unwrap();
    let emb = mk(v, d);
    let ls: Vec<[Var; 6]> = (0..l).map(|_| [mk(3 * d, d), mk(d, d), mk(2 * f, d), mk(d, f), one(), one()]).collect();
    let nf = one();
    let vars: Vec<Var> = [emb.clone(), nf.clone()].into_iter().chain(ls.iter().flatten().cloned()).collect();
    let (mut cos, mut sin) = (vec![], vec![]);
    for i in 0..t {
        for j in 0..hd / 2 {
            let a = i as f32 / 10000f32.powf(2.0 * j as f32 / hd as f32);
            cos.push(a.cos());
            sin.push(a.sin());
        }
    }
    let ids: Vec<u32> = (0..b * (t + 1)).map(|i| ((i as u64 * 2654435761) % 4096) as u32).collect();
    let x: Vec<u32> = ids.chunks(t + 1).flat_map(|c| c[..t].to_vec()).collect();
    let y: Vec<u32> = ids.chunks(t + 1).flat_map(|c| c[1..].to_vec()).collect();
    let xt = Tensor::from_vec(x, b * t, &dev)?;
    let fwd = || -> Result<Tensor> {
        let mut x = emb.index_select(&xt, 0)?;
        for w in &ls {
            let q = x.apply_op2(&w[4], Rms)?.apply_op2(&w[0], Lin)?;
            let a = q.apply_op1(Attn { b, t, h, hd, cos: cos.clone(), sin: sin.clone() })?;
            x = (x + a.apply_op2(&w[1], Lin)?)?;
            let g = x.apply_op2(&w[5], Rms)?.apply_op2(&w[2], Lin)?.apply_op1(Swiglu)?;
            x = (x + g.apply_op2(&w[3], Lin)?)?;
        }
        x.apply_op2(&nf, Rms)?.apply_op2(&emb, Lin)?.apply_op1(Ce { y: y.clone() })
    };
    let zeros = |v: &Var| (vec![0f32; v.elem_count()], vec![0f32; v.elem_count()]);
    let (mut ms, mut vs): (Vec<Vec<f32>>, Vec<Vec<f32>>) = vars.iter().map(zeros).unzip();
    let mut seconds = vec![];
    for it in 1..=steps {
        let s = Instant::now();
        let loss = fwd()?;
        let gr = loss.backward()?;
        let (c1, c2) = (1.0 - 0.9f32.powi(it), 1.0 - 0.95f32.powi(it));
        for (i, vr) in vars.iter().enumerate() {
            let g = gr.get(vr).unwrap().contiguous()?;
            let (m, vv) = (&mut ms[i], &mut vs[i]);
            vr.as_tensor().inplace_op1(&Up(&g, Mutex::new((m, vv)), c1, c2))?;
        }
        seconds.push(s.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let report = serde_json::json!({
        "referenceTokensPerSecond": (b * t) as f64 / seconds[seconds.len() / 2],
        "threads": rayon::current_num_threads(),
        "peakRssBytes": peak_rss_bytes(),
    });
    println!("{report}");
    Ok(())
}
