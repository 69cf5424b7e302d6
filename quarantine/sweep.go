package quarantine

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// isContent reports whether the bytes of a blob or an upload lie at p.
func isContent(p string) bool { return path.Base(p) == "data" }

// Sweep removes what processes left behind that died, or could not do better beside others: blobs nobody claims; claims of images that
// are not held, and of uploads that are not there, if they were made before then; and files from writes that were cut short before then.
// It returns how many bytes went. What the last [Room.Count] did not find is for the next to see.
//
// Claims of what was pushed stay, whatever became of it: between them and the manifest they are made for, another process may be.
func (r *Room) Sweep(ctx context.Context, before time.Time) (freed int64, err error) {
	freed, err = r.sweep(ctx, before)
	if err != nil {
		return freed, fmt.Errorf("sweeping up: %w", err)
	}
	return freed, nil
}

func (r *Room) sweep(ctx context.Context, before time.Time) (freed int64, err error) {
	if err := r.sweepTorn(ctx, before); err != nil {
		return 0, err
	}
	claimed, stale, err := r.claims(ctx, before)
	if err != nil {
		return 0, err
	}
	for _, claim := range stale {
		n, err := r.sweepClaim(ctx, claim, before)
		freed += n
		if err != nil {
			return freed, err
		}
	}
	for _, encoded := range r.q.store.scales.blobs() {
		if claimed[encoded] {
			continue
		}
		n, err := r.sweepBlob(ctx, encoded)
		freed += n
		if err != nil {
			return freed, err
		}
	}
	return freed, nil
}

// sweepTorn removes what is no blob, claim or note from among them.
func (r *Room) sweepTorn(ctx context.Context, before time.Time) error {
	s := r.q.store
	var torn []string
	for _, top := range []string{blobsPath, claimsPath, manifestsPath} {
		err := s.walk(ctx, top, func(f stored) error {
			if f.at.Before(before) && (top == blobsPath && !isContent(f.path) || isTorn(f.path)) {
				torn = append(torn, f.path)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for _, p := range torn {
		if err := s.remove(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// claims returns the blobs that somebody claims, in hexadecimal, and where the claims lie that were made before then by what is not there.
func (r *Room) claims(ctx context.Context, before time.Time) (claimed map[string]bool, stale []string, err error) {
	s := r.q.store
	claimants := map[string]bool{}
	err = s.notes(ctx, func(c gate.Candidate, _ time.Time) error {
		claimants[claimName(c)] = true
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	hosted := upstreamMark(oci.Repository{})
	claimed = map[string]bool{}
	err = s.walk(ctx, claimsPath, func(f stored) error {
		if isTorn(f.path) {
			return nil
		}
		name := path.Base(f.path)
		claimed[weighed(f.path)] = true
		if !claimants[name] && !strings.HasPrefix(name, hosted) && f.at.Before(before) {
			stale = append(stale, f.path)
		}
		return nil
	})
	return claimed, stale, err
}

// sweepClaim gives up the claim that lies at p, unless it was made anew.
func (r *Room) sweepClaim(ctx context.Context, p string, before time.Time) (freed int64, err error) {
	d, err := oci.ParseDigest("sha256:" + weighed(p))
	if err != nil {
		return 0, nil // it is not ours
	}
	r.q.claims.Lock()
	defer r.q.claims.Unlock()
	info, err := r.q.store.driver.Stat(ctx, p)
	if isNotFound(err) || err == nil && !info.ModTime().Before(before) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return r.q.dropClaim(ctx, d, path.Base(p))
}

// sweepBlob removes a blob, unless somebody claims it.
func (r *Room) sweepBlob(ctx context.Context, encoded string) (freed int64, err error) {
	d, err := oci.ParseDigest("sha256:" + encoded)
	if err != nil {
		return 0, nil // it is not ours
	}
	r.q.claims.Lock()
	defer r.q.claims.Unlock()
	names, err := r.q.store.claimNames(ctx, d)
	if err != nil || len(names) > 0 {
		return 0, err
	}
	r.q.intact.remove(d)
	return r.q.store.dropBlob(ctx, d)
}
