package review_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/review"
)

// world is the gate with its evidence, its records and its bytes, by the policies of a desk.
type world struct {
	d *desk

	mu       sync.Mutex
	evidence map[gate.Candidate]gate.Evidence // guarded by mu
	newest   map[gate.Candidate]gate.Verdict  // guarded by mu
	dropped  []string                         // guarded by mu
	dropErr  error
}

// Judge looks into layers, as the gate does, only where nothing else denies.
func (w *world) Judge(_ context.Context, c gate.Candidate) (gate.Verdict, error) {
	early, err := w.decide(c, false)
	if err != nil || len(early.Reasons) > 1 {
		return early, err
	}
	return w.decide(c, true)
}

func (w *world) Examine(_ context.Context, c gate.Candidate) (gate.Verdict, error) {
	return w.decide(c, true)
}

func (w *world) decide(c gate.Candidate, examined bool) (gate.Verdict, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.evidence[c]
	if !ok {
		return gate.Verdict{}, &gate.NoVerdict{Step: gate.StepHold, Err: oci.ErrNotFound}
	}
	e.Candidate, e.Examined, e.Looked = c, examined, gate.Look{Secrets: examined}
	if !examined {
		e.Findings, e.Gaps, e.Inventory = nil, nil, gate.Inventory{}
	}
	v := gate.Decide(w.d.Current(), e, w.d.clock.now())
	w.newest[c] = v
	return v, nil
}

func (w *world) Repositories(context.Context) ([]oci.Repository, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []oci.Repository
	for c := range w.newest {
		if !slices.Contains(all, c.Repository) {
			all = append(all, c.Repository)
		}
	}
	return all, nil
}

func (w *world) Kept(_ context.Context, repo oci.Repository) ([]review.Kept, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []review.Kept
	for c, v := range w.newest {
		if c.Repository == repo && !v.Allowed() && v.Keep {
			all = append(all, review.Kept{Candidate: c, JudgedAt: v.JudgedAt, FirstSeen: noon})
		}
	}
	return all, nil
}

func (w *world) Newest(_ context.Context, c gate.Candidate) (gate.Verdict, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v, ok := w.newest[c]
	return v, ok, nil
}

func (w *world) Manifest(_ context.Context, c gate.Candidate) (oci.Manifest, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.evidence[c]
	return e.Manifest, ok, nil
}

func (w *world) Drop(_ context.Context, c gate.Candidate, by string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dropped = append(w.dropped, by+" "+c.String())
	return w.dropErr
}

func (w *world) Asked(context.Context, gate.Candidate) (review.Asked, error) {
	return review.Asked{Count: 3}, nil
}

func newWorld(t *testing.T, change func(*review.Options)) (*world, *review.Queue) {
	w := &world{d: newDesk(t, change), evidence: map[gate.Candidate]gate.Evidence{}, newest: map[gate.Candidate]gate.Verdict{}}
	return w, &review.Queue{Waivers: w.d.Waivers, Records: w, Judge: w, Bytes: w, Counts: w}
}

// judged has an image judged that is unsigned and has findings.
func (w *world) judged(t *testing.T, c gate.Candidate, findings ...gate.Finding) {
	t.Helper()
	w.mu.Lock()
	w.evidence[c] = gate.Evidence{Manifest: oci.Manifest{MediaType: oci.MediaTypeImage}, Findings: findings}
	w.mu.Unlock()
	if _, err := w.Examine(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

func critical(id string) gate.Finding {
	return gate.Finding{ID: id, Severity: gate.Critical, Package: gate.Package{Type: "npm", Name: "lodash", Version: "1"}}
}

func everything(oci.Repository) bool { return true }

var aDay = review.ReleaseRequest{Reason: "needed today", Ticket: "OPS-7", For: 24 * time.Hour}

func TestRelease(t *testing.T) {
	image := candidate(nginx, "image")
	t.Run("waives each of the reasons there are, and lets the image out", func(t *testing.T) {
		w, q := newWorld(t, nil)
		w.judged(t, image, critical("CVE-1"), critical("CVE-2"))
		got, err := q.Release(t.Context(), sam, image, aDay)
		if err != nil || got.Pending || !got.Verdict.Allowed() {
			t.Fatalf("got %+v, %v", got, err)
		}
		var about []string
		for _, s := range got.Waivers {
			about = append(about, s.Vulnerability+s.Package+string(s.Rule))
			if s.Digest != image.Digest || !slices.Equal(s.Repositories, []string{nginx.String()}) || s.Release != got.Waivers[0].Release {
				t.Errorf("it is not about this image alone: %+v", s)
			}
		}
		if diff := cmp.Diff(about, []string{"signatures", "CVE-1npm/lodash", "CVE-2npm/lodash"}); diff != "" {
			t.Errorf("waived (-got +want):\n%s", diff)
		}
		if diff := cmp.Diff(w.d.book.kinds(), []string{"user:sam released"}); diff != "" {
			t.Errorf("on record (-got +want):\n%s", diff)
		}
		w.judged(t, image, critical("CVE-1"), critical("CVE-2"), critical("CVE-3"))
		if v := w.newest[image]; v.Allowed() || len(v.Reasons) != 1 || v.Reasons[0].Finding.ID != "CVE-3" {
			t.Errorf("a new finding: %+v", v.Reasons)
		}
		w.judged(t, image, critical("CVE-1"), critical("CVE-2"))
		if _, err := w.d.Revoke(t.Context(), kim, got.Waivers[0].Release, "enough"); err != nil {
			t.Fatal(err)
		}
		if v, err := w.Examine(t.Context(), image); err != nil || v.Allowed() || len(v.Reasons) != 3 {
			t.Errorf("revoked: %+v, %v", v.Reasons, err)
		}
	})
	t.Run("looks into what was refused early first", func(t *testing.T) {
		w, q := newWorld(t, nil)
		w.judged(t, image, critical("CVE-1"))
		if v, err := w.Judge(t.Context(), image); err != nil || v.Complete {
			t.Fatalf("got %+v, %v", v, err)
		}
		got, err := q.Release(t.Context(), sam, image, aDay)
		if err != nil || !got.Verdict.Allowed() || len(got.Waivers) != 2 {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("waives what a rule says and not the rule", func(t *testing.T) {
		w, q := newWorld(t, nil)
		w.evidence[image] = gate.Evidence{
			Manifest: oci.Manifest{MediaType: oci.MediaTypeImage}, Gaps: []gate.Gap{{Kind: gate.GapLimit, Why: "too deep"}},
			Inventory: gate.Inventory{Secrets: []gate.Secret{{Kind: "key", Path: "a"}}},
		}
		got, err := q.Release(t.Context(), sam, image, aDay)
		if err != nil || len(got.Waivers) != 3 {
			t.Fatalf("got %+v, %v", got, err)
		}
		e := w.evidence[image]
		e.Inventory.Secrets = append(e.Inventory.Secrets, gate.Secret{Kind: "key", Path: "b"})
		e.Gaps = append(e.Gaps, gate.Gap{Kind: gate.GapLimit, Why: "too wide"})
		w.evidence[image] = e
		v, err := w.Examine(t.Context(), image)
		if err != nil || len(v.Reasons) != 2 || !strings.Contains(v.Summary(), "in b") || !strings.Contains(v.Summary(), "too wide") {
			t.Errorf("got %s, %v", v.Summary(), err)
		}
	})
	t.Run("is for the repository it is in", func(t *testing.T) {
		w, q := newWorld(t, nil)
		copied := candidate(oci.Repository{Path: "apps/web"}, "image")
		w.judged(t, image)
		w.judged(t, copied)
		if _, err := q.Release(t.Context(), sam, image, aDay); err != nil {
			t.Fatal(err)
		}
		if v, err := w.Examine(t.Context(), copied); err != nil || v.Allowed() {
			t.Errorf("the copy: %+v, %v", v, err)
		}
	})
	t.Run("waits for a second person", func(t *testing.T) {
		w, q := newWorld(t, secondApprover)
		w.judged(t, image, critical("CVE-1"))
		got, err := q.Release(t.Context(), sam, image, aDay)
		if err != nil || !got.Pending || got.Verdict.Allowed() || len(w.d.Current().Waivers) != 0 {
			t.Fatalf("got %+v, %v", got, err)
		}
		release := got.Waivers[0].Release
		page, err := q.List(t.Context(), review.Filter{May: everything, N: 10})
		if err != nil || len(page.Images) != 1 || !slices.Equal(page.Images[0].Pending, []string{release}) {
			t.Errorf("the list does not say so: %+v, %v", page, err)
		}
		if _, err := w.d.Approve(t.Context(), sam, release, ""); why(err) != review.Forbidden {
			t.Errorf("sam approved: %v", err)
		}
		if all, err := w.d.Approve(t.Context(), kim, release, ""); err != nil || len(all) != 2 {
			t.Fatalf("kim did not: %+v, %v", all, err)
		}
		if v, err := w.Examine(t.Context(), image); err != nil || !v.Allowed() {
			t.Errorf("got %+v, %v", v.Reasons, err)
		}
	})
	t.Run("is refused", func(t *testing.T) {
		w, q := newWorld(t, nil)
		w.judged(t, image)
		nobody := candidate(nginx, "nobody's")
		w.evidence[nobody] = gate.Evidence{}
		for law, tt := range map[string]struct {
			c    gate.Candidate
			r    review.ReleaseRequest
			want review.Why
		}{
			"without a reason":      {image, review.ReleaseRequest{For: time.Hour}, review.Invalid},
			"without an end":        {image, review.ReleaseRequest{Reason: "x"}, review.Invalid},
			"longer than may be":    {image, review.ReleaseRequest{Reason: "x", For: 101 * time.Hour}, review.Invalid},
			"what was never judged": {candidate(nginx, "none"), aDay, ""},
		} {
			if _, err := q.Release(t.Context(), sam, tt.c, tt.r); err == nil || why(err) != tt.want {
				t.Errorf("%s: %v", law, err)
			}
		}
		w.d.files.set = &gate.PolicySet{WaiverMax: time.Hour}
		if _, err := q.Release(t.Context(), sam, nobody, aDay); why(err) != review.Conflict {
			t.Errorf("what no policy is about: %v", err)
		}
		w.d.files.set = strict(t)
		if _, err := q.Release(t.Context(), sam, image, aDay); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Release(t.Context(), sam, image, aDay); why(err) != review.Conflict {
			t.Errorf("what is allowed: %v", err)
		}
	})
}

func TestDrop(t *testing.T) {
	w, q := newWorld(t, nil)
	image := candidate(nginx, "image")
	w.judged(t, image)
	for law, err := range map[string]error{
		"without a reason":      q.Drop(t.Context(), sam, image, ""),
		"what was never judged": q.Drop(t.Context(), sam, candidate(nginx, "none"), "x"),
	} {
		if why(err) == "" {
			t.Errorf("%s: %v", law, err)
		}
	}
	if err := q.Drop(t.Context(), sam, image, "nobody needs it"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w.dropped, []string{"user:sam " + image.String()}); diff != "" {
		t.Errorf("dropped (-got +want):\n%s", diff)
	}
	list := func() []review.Item {
		page, err := q.List(t.Context(), review.Filter{May: everything, N: 10})
		if err != nil {
			t.Fatal(err)
		}
		return page.Images
	}
	if got := list(); len(got) != 0 {
		t.Errorf("it is still listed: %+v", got)
	}
	detail, err := q.Show(t.Context(), image)
	if err != nil || detail.DroppedBy != "user:sam" || detail.DroppedReason != "nobody needs it" || detail.Verdict.Allowed() {
		t.Errorf("its record: %+v, %v", detail, err)
	}
	w.d.clock.pass(time.Minute)
	w.judged(t, image) // somebody asked for it again
	if got := list(); len(got) != 1 {
		t.Errorf("judged again, it is not listed: %+v", got)
	}
	w.dropErr = &oci.Error{Code: oci.CodeDenied, Message: "the tag is immutable"}
	if err := q.Drop(t.Context(), sam, image, "again"); !errors.Is(err, w.dropErr) {
		t.Errorf("what must stay: %v", err)
	}
	if diff := cmp.Diff(w.d.book.kinds(), []string{"user:sam dropped", "user:sam dropped", "user:sam dropped failed"}); diff != "" {
		t.Errorf("on record (-got +want):\n%s", diff)
	}
}

func TestReadingIsOnRecordFirst(t *testing.T) {
	w, q := newWorld(t, nil)
	image := candidate(nginx, "image")
	w.judged(t, image)
	if err := q.Read(t.Context(), sam, image, ""); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w.d.book.kinds(), []string{"user:sam read"}); diff != "" {
		t.Errorf("on record (-got +want):\n%s", diff)
	}
	w.d.book.err = errors.New("the disk is full")
	if err := q.Read(t.Context(), sam, image, ""); !errors.Is(err, w.d.book.err) {
		t.Errorf("got %v", err)
	}
	if err := q.Read(t.Context(), sam, candidate(nginx, "none"), ""); why(err) != review.Unknown {
		t.Errorf("what was never judged: %v", err)
	}
}

func TestListPages(t *testing.T) {
	w, q := newWorld(t, nil)
	apps := oci.Repository{Path: "apps/web"}
	var want []string
	for i := range 25 {
		repo := nginx
		if i%5 == 0 {
			repo = apps
		}
		if i%2 == 0 { // some are judged at the same time
			w.d.clock.pass(time.Second)
		}
		c := candidate(repo, fmt.Sprint(i))
		var findings []gate.Finding
		if i%3 == 0 {
			findings = append(findings, critical("CVE-1"))
		}
		w.judged(t, c, findings...)
	}
	all, err := q.List(t.Context(), review.Filter{May: everything, N: review.MaxPage})
	if err != nil || len(all.Images) != 25 || all.Next != "" {
		t.Fatalf("got %d, next %q, %v", len(all.Images), all.Next, err)
	}
	for _, i := range all.Images {
		want = append(want, i.Reference())
	}
	for _, n := range []int{1, 2, 7, 24, 25, 26} {
		f := review.Filter{May: everything, N: n}
		var got []string
		for range 30 {
			page, err := q.List(t.Context(), f)
			if err != nil || len(page.Images) > n {
				t.Fatalf("%d images, %v", len(page.Images), err)
			}
			for _, i := range page.Images {
				got = append(got, i.Reference())
			}
			if f.After = page.Next; f.After == "" {
				break
			}
		}
		if diff := cmp.Diff(got, want); diff != "" {
			t.Errorf("by pages of %d (-got +want):\n%s", n, diff)
		}
	}
	hosted := pattern(t, "apps/**")
	for law, tt := range map[string]struct {
		f    review.Filter
		want int
	}{
		"nobody may see anything unless it is said":    {review.Filter{}, 0},
		"whoever reviews one repository sees that one": {review.Filter{May: func(r oci.Repository) bool { return r == apps }}, 5},
		"by repository":      {review.Filter{May: everything, Repositories: &hosted}, 5},
		"by severity":        {review.Filter{May: everything, Severity: gate.High}, 9},
		"by rule":            {review.Filter{May: everything, Rule: gate.RuleVulnerabilities}, 9},
		"by a rule all have": {review.Filter{May: everything, Rule: gate.RuleSignatures}, 25},
		"by a rule none has": {review.Filter{May: everything, Rule: gate.RuleGap}, 0},
	} {
		tt.f.N = 100
		if page, err := q.List(t.Context(), tt.f); err != nil || len(page.Images) != tt.want {
			t.Errorf("%s: got %d, %v, want %d", law, len(page.Images), err, tt.want)
		}
	}
	for _, f := range []review.Filter{{May: everything}, {May: everything, N: review.MaxPage + 1}, {May: everything, N: 1, After: "x"}} {
		if _, err := q.List(t.Context(), f); why(err) != review.Invalid {
			t.Errorf("%+v: %v", f, err)
		}
	}
	one := all.Images[0]
	if one.FirstSeen != noon || one.Asked.Count != 3 || one.Policy != "strict" || !strings.Contains(one.Why, "unsigned") || one.Findings["critical"] != 1 {
		t.Errorf("it shows %+v", one)
	}
}
