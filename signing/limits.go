package signing

import (
	"context"
	"sync"
	"time"
)

// What is read to find the signatures of one image. Anybody who may push to a repository can attach things to an image in it, so
// each of these is a fact about the image (a rejection) when it is exceeded, and never a failure.
const (
	// maxReferrers bounds the manifests opened of those that refer to an image. A signature for every night of half a year.
	maxReferrers = 200
	// maxLayers bounds the signatures read of one manifest. Legacy signatures share one, so it grows with every signing.
	maxLayers = 50
	// maxOffers bounds the layers read for one image: a full list of referrers with one signature each, and as many again.
	maxOffers = 2 * maxReferrers
	// maxManifestsBytes bounds the manifests of referrers read in one repository, and maxLayersBytes the layers read for one
	// image: 64 MiB together. Each has its own share, so that large manifests cannot crowd out the layers of small ones.
	maxManifestsBytes = 32 << 20
	maxLayersBytes    = 32 << 20
	// maxBundleBytes bounds a sigstore bundle. Signatures are kilobytes; attestations of large SBOMs, which share the type and
	// have to be read to be told apart, are some megabytes.
	maxBundleBytes = 8 << 20
	// maxPayloadBytes bounds the payload of a legacy signature, a few hundred bytes and what annotations the signer added.
	maxPayloadBytes = 64 << 10
	// maxSubjects bounds the artifacts one statement names; the verifier library has the same bound.
	maxSubjects = 1024
	// maxRSABits bounds the work one signature can cause; the largest keys in use have 4096 bits.
	maxRSABits = 16384
	minRSABits = 2048
)

// What is said about what was found.
const (
	// maxRejections bounds the rejections reported of one image: they are for people, and are stored with every verdict.
	maxRejections = 64
	// maxWhyBytes bounds the text of one rejection, which may quote whoever made the signature.
	maxWhyBytes = 240
)

const (
	// verifyTimeout bounds looking for the signatures of one image: the most that is opened (600 requests), fetchers at a time,
	// from a registry that takes 400 ms for each.
	verifyTimeout = time.Minute
	// fetchers is how many things of one list are read at once: few enough not to provoke a registry's rate limit.
	fetchers = 4
	// largeBytes is the size from which a layer is read and checked only largeAtOnce at a time: checking takes several times
	// the memory of what is checked.
	largeBytes  = 1 << 20
	largeAtOnce = 2
)

// budget is how many bytes may still be read. It is not safe for concurrent use: bytes are taken in an order that depends on what
// is to be read alone, before the reading starts, so that the same image always leads to the same evidence.
type budget int64

// take reserves n bytes and reports whether there were as many left.
func (b *budget) take(n int64) bool {
	if n < 0 || n > int64(*b) {
		return false
	}
	*b -= budget(n)
	return true
}

// each calls do for every i below n, at most [fetchers] at once, and waits for all calls. The first error stops the others and is
// returned.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var running sync.WaitGroup
	for range min(n, fetchers) {
		running.Go(func() {
			for i := range next {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	running.Wait()
	return context.Cause(ctx)
}
