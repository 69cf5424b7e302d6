package review_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/review"
)

func TestGrant(t *testing.T) {
	for law, tt := range map[string]struct {
		change func(r *review.Request)
		want   review.Why // empty when it is granted
	}{
		"a waiver of an advisory in a repository": {func(*review.Request) {}, ""},
		"of a package":                                {func(r *review.Request) { r.Package = "deb/openssl" }, ""},
		"of a digest everywhere":                      {func(r *review.Request) { r.Repositories, r.Digest = nil, digestOf("a") }, ""},
		"of a rule":                                   {func(r *review.Request) { r.Vulnerability, r.Rule = "", gate.RuleSize }, ""},
		"of what a rule says":                         {func(r *review.Request) { r.Vulnerability, r.Rule, r.Says = "", gate.RuleGap, "x\ty" }, ""},
		"up to waiver_max":                            {func(r *review.Request) { r.For, r.Until = 0, noon.Add(100*time.Hour) }, ""},
		"not a second longer":                         {func(r *review.Request) { r.For, r.Until = 0, noon.Add(100*time.Hour+time.Second) }, review.Invalid},
		"nor for longer":                              {func(r *review.Request) { r.For = 101 * time.Hour }, review.Invalid},
		"not for ever":                                {func(r *review.Request) { r.For = 0 }, review.Invalid},
		"not until two times":                         {func(r *review.Request) { r.Until = noon.Add(time.Hour) }, review.Invalid},
		"not until the past":                          {func(r *review.Request) { r.For, r.Until = 0, noon }, review.Invalid},
		"not for less than nothing":                   {func(r *review.Request) { r.For = -time.Hour }, review.Invalid},
		"not without a reason":                        {func(r *review.Request) { r.Reason = " " }, review.Invalid},
		"not for a reason that moves a cursor":        {func(r *review.Request) { r.Reason = "x\x1b[2J" }, review.Invalid},
		"not for a book":                              {func(r *review.Request) { r.Reason = strings.Repeat("x", 1001) }, review.Invalid},
		"not of everything":                           {func(r *review.Request) { r.Repositories = nil }, review.Invalid},
		"not of nothing":                              {func(r *review.Request) { r.Vulnerability = "" }, review.Invalid},
		"not of an advisory and a rule":               {func(r *review.Request) { r.Rule = gate.RuleGap }, review.Invalid},
		"not of a rule there is not":                  {func(r *review.Request) { r.Vulnerability, r.Rule = "", "every" }, review.Invalid},
		"not of a rule that cannot be waived":         {func(r *review.Request) { r.Vulnerability, r.Rule = "", gate.RuleMatch }, review.Invalid},
		"not of a package that is none":               {func(r *review.Request) { r.Package = "openssl" }, review.Invalid},
		"not of a rule in a package":                  {func(r *review.Request) { r.Vulnerability, r.Rule, r.Package = "", gate.RuleGap, "deb/x" }, review.Invalid},
		"not of a pattern that is none":               {func(r *review.Request) { r.Repositories = []string{"docker.io/[a-z]"} }, review.Invalid},
		"not of a digest that is none":                {func(r *review.Request) { r.Digest = "sha256:1" }, review.Invalid},
		"not of more repositories than a person read": {func(r *review.Request) { r.Repositories = slices.Repeat([]string{"a"}, 51) }, review.Invalid},
	} {
		t.Run(law, func(t *testing.T) {
			d := newDesk(t, nil)
			r := cve("CVE-1")
			tt.change(&r)
			made, err := d.Grant(t.Context(), sam, r)
			if why(err) != tt.want || (err != nil) != (tt.want != "") {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if err != nil {
				if d.log.count() != 0 || len(d.book.kinds()) != 0 {
					t.Error("something was recorded")
				}
				return
			}
			if made[0].State != review.Live || made[0].By != "user:sam" || !made[0].GrantedAt.Equal(noon) || len(d.Current().Waivers) != 1 {
				t.Errorf("got %+v, in force %+v", made[0], d.Current().Waivers)
			}
			if diff := cmp.Diff(d.book.kinds(), []string{"user:sam granted"}); diff != "" {
				t.Errorf("on record (-got +want):\n%s", diff)
			}
		})
	}
	t.Run("where no waiver may last, none is granted", func(t *testing.T) {
		d := newDesk(t, nil)
		d.files.set = &gate.PolicySet{}
		if _, err := d.Grant(t.Context(), sam, cve("CVE-1")); why(err) != review.Invalid {
			t.Errorf("got %v", err)
		}
	})
	t.Run("what cannot be put on record is not granted", func(t *testing.T) {
		d := newDesk(t, nil)
		d.book.err = errors.New("the disk is full")
		if _, err := d.Grant(t.Context(), sam, cve("CVE-1")); !errors.Is(err, d.book.err) || d.log.count() != 0 || len(d.inForce()) != 0 {
			t.Errorf("got %v, in force %v", err, d.inForce())
		}
	})
	t.Run("what cannot be kept is not granted, and that is on record", func(t *testing.T) {
		d := newDesk(t, nil)
		broken := appendFails{d.log}
		d = d.replica(t, func(o *review.Options) { o.Log = broken })
		if _, err := d.Grant(t.Context(), sam, cve("CVE-1")); !errors.Is(err, errAppend) || len(d.inForce()) != 0 {
			t.Errorf("got %v, in force %v", err, d.inForce())
		}
		if diff := cmp.Diff(d.book.kinds(), []string{"user:sam granted", "user:sam granted failed"}); diff != "" {
			t.Errorf("on record (-got +want):\n%s", diff)
		}
	})
}

func TestRevocation(t *testing.T) {
	d := newDesk(t, nil)
	other := d.replica(t, nil)
	w := mustGrant(t, d, sam, cve("CVE-1"))
	if err := other.Refresh(t.Context()); err != nil || other.Current().WaiverRevision != d.Current().WaiverRevision || len(other.inForce()) != 1 {
		t.Fatalf("the other replica: %v, %v", err, other.inForce())
	}
	before := d.Current().WaiverRevision
	if _, err := other.Revoke(t.Context(), kim, w.ID, ""); why(err) != review.Invalid {
		t.Errorf("without a reason: %v", err)
	}
	if _, err := other.Revoke(t.Context(), kim, "wnone", "x"); why(err) != review.Unknown {
		t.Errorf("of none: %v", err)
	}
	got, err := other.Revoke(t.Context(), kim, w.ID, "it is reachable")
	if err != nil || got[0].State != review.Revoked || got[0].RevokedBy != "user:kim" || len(other.inForce()) != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := d.Revoke(t.Context(), kim, w.ID, "again"); why(err) != review.Conflict {
		t.Errorf("again, elsewhere: %v", err)
	}
	if len(d.inForce()) != 0 || d.Current().WaiverRevision == before || d.Current().WaiverRevision != other.Current().WaiverRevision {
		t.Errorf("in force %v by %s", d.inForce(), d.Current().WaiverRevision)
	}
	if d.Current() != d.files.Current() {
		t.Error("without granted waivers the files' own set is not in force")
	}
}

func TestAWaiverLapsesWithoutANewRevision(t *testing.T) {
	d := newDesk(t, nil)
	w := mustGrant(t, d, sam, cve("CVE-1"))
	before := d.Current().WaiverRevision
	d.clock.pass(25 * time.Hour)
	later := d.replica(t, nil) // begins after it has lapsed
	if err := d.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d.Current().WaiverRevision != before || later.Current().WaiverRevision != before {
		t.Error("the revision depends on the time it is looked at")
	}
	if got := d.Named(w.ID)[0].State; got != review.Expired {
		t.Errorf("it is %s", got)
	}
	if len(later.inForce()) != 0 {
		t.Errorf("in force: %v", later.inForce())
	}
}

func TestTwoPeople(t *testing.T) {
	d := newDesk(t, secondApprover)
	if _, err := d.Grant(t.Context(), who, cve("CVE-0")); why(err) != review.Forbidden {
		t.Errorf("somebody unknown asked: %v", err)
	}
	w := mustGrant(t, d, sam, cve("CVE-1"))
	if w.State != review.Pending || len(d.inForce()) != 0 {
		t.Fatalf("it is %s, in force %v", w.State, d.inForce())
	}
	elsewhere := sam
	elsewhere.Address = "192.0.2.99"
	for by, want := range map[review.Person]review.Why{sam: review.Forbidden, elsewhere: review.Forbidden, who: review.Forbidden} {
		if _, err := d.Approve(t.Context(), by, w.ID, ""); why(err) != want {
			t.Errorf("%s approved: %v", by.Name, err)
		}
	}
	got, err := d.Approve(t.Context(), kim, w.ID, "seen")
	if err != nil || got[0].State != review.Live || got[0].ApprovedBy != "user:kim" || len(d.inForce()) != 1 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if by := d.Current().Waivers[0].By; !strings.Contains(by, "user:sam and user:kim") || !strings.Contains(by, w.ID) {
		t.Errorf("the verdict will name %q", by)
	}
	if _, err := d.Approve(t.Context(), kim, w.ID, ""); why(err) != review.Conflict {
		t.Errorf("approved twice: %v", err)
	}
	late := mustGrant(t, d, sam, cve("CVE-2"))
	d.clock.pass(24 * time.Hour)
	if err := d.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Approve(t.Context(), kim, late.ID, ""); why(err) != review.Conflict {
		t.Errorf("approved after it had lapsed: %v", err)
	}
	if diff := cmp.Diff(d.book.kinds(), []string{"user:sam requested pending", "user:kim approved", "user:sam requested pending"}); diff != "" {
		t.Errorf("on record (-got +want):\n%s", diff)
	}
	t.Run("an approval in the log by whoever asked changes nothing", func(t *testing.T) {
		d := newDesk(t, secondApprover)
		w := mustGrant(t, d, sam, cve("CVE-1"))
		for _, by := range []review.Person{sam, {Name: "user:kim"}} { // the second one unknown
			e := review.Event{Kind: review.KindApproved, By: by, At: noon, IDs: []string{w.ID}}
			if _, err := d.log.Append(t.Context(), oci.Repository{}, e); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Refresh(t.Context()); err != nil || len(d.inForce()) != 0 {
			t.Errorf("in force: %v, %v", d.inForce(), err)
		}
	})
	t.Run("one who asked is refused by another", func(t *testing.T) {
		d := newDesk(t, secondApprover)
		w := mustGrant(t, d, sam, cve("CVE-1"))
		if got, err := d.Revoke(t.Context(), kim, w.ID, "no"); err != nil || got[0].State != review.Revoked {
			t.Fatalf("got %v, %v", got, err)
		}
		if _, err := d.Approve(t.Context(), kim, w.ID, ""); why(err) != review.Conflict {
			t.Errorf("approved after that: %v", err)
		}
	})
}

func TestWhatCannotBeReadDoesNotCount(t *testing.T) {
	t.Run("a log that is not read", func(t *testing.T) {
		d := newDesk(t, nil)
		mustGrant(t, d, sam, cve("CVE-1"))
		d.log.fail(errors.New("the storage is gone"))
		d.clock.pass(review.Unread - time.Nanosecond)
		if len(d.inForce()) != 1 {
			t.Error("it stopped counting too early")
		}
		d.clock.pass(time.Nanosecond)
		if len(d.inForce()) != 0 || d.Current() != d.files.Current() {
			t.Error("it counts, though it may have been revoked elsewhere")
		}
		d.log.fail(nil)
		if err := d.Refresh(t.Context()); err != nil || len(d.inForce()) != 1 {
			t.Errorf("read again, in force: %v, %v", d.inForce(), err)
		}
	})
	t.Run("a log that cannot be read at the start", func(t *testing.T) {
		d := newDesk(t, nil)
		d.log.fail(errors.New("the storage is gone"))
		o := review.Options{Files: d.files, Log: d.log, Audit: d.book, Now: d.clock.now, Logger: slog.New(slog.DiscardHandler)}
		if _, err := review.Open(t.Context(), o); err == nil {
			t.Error("it opens, and nobody knows what counts")
		}
	})
	t.Run("a record that is not believed may have revoked what was there before", func(t *testing.T) {
		d := newDesk(t, nil)
		mustGrant(t, d, sam, cve("CVE-1"))
		if _, err := d.log.Append(t.Context(), oci.Repository{}, review.Event{}); err != nil {
			t.Fatal(err)
		}
		if err := d.Refresh(t.Context()); err != nil || len(d.inForce()) != 0 {
			t.Errorf("in force: %v, %v", d.inForce(), err)
		}
		mustGrant(t, d, sam, cve("CVE-2"))
		if diff := cmp.Diff(d.inForce(), []string{"CVE-2"}); diff != "" {
			t.Errorf("in force (-got +want):\n%s", diff)
		}
		if got := d.Counts()[review.Doubted]; got != 1 {
			t.Errorf("%d are doubted", got)
		}
	})
}

func TestChangedFilesAreJoinedAnew(t *testing.T) {
	d := newDesk(t, nil)
	mustGrant(t, d, sam, cve("CVE-1"))
	first := d.Current()
	if d.Current() != first {
		t.Error("the set is made for every request")
	}
	changed := strict(t)
	changed.Waivers = []gate.Waiver{{Vulnerability: "CVE-FILE", Repositories: []oci.Pattern{pattern(t, "**")}, Until: noon.Add(time.Hour), By: "alice", Reason: "x"}}
	changed.WaiverRevision = "others"
	d.files.mu.Lock()
	d.files.set = changed
	d.files.mu.Unlock()
	if diff := cmp.Diff(d.inForce(), []string{"CVE-1", "CVE-FILE"}); diff != "" || d.Current().WaiverRevision == first.WaiverRevision {
		t.Errorf("in force (-got +want):\n%s", diff)
	}
	list := d.List()
	if len(list) != 2 || list[0].Source != "file" || list[0].ID != "" || list[1].Source != "granted" {
		t.Errorf("the list is %+v", list)
	}
	if got := d.Expiring(2 * time.Hour); len(got) != 1 || got[0].Vulnerability != "CVE-FILE" {
		t.Errorf("expiring: %+v", got)
	}
}

func TestOtherFilesAreTriedWithWhatIsGranted(t *testing.T) {
	d := newDesk(t, nil)
	draft := strict(t)
	if d.With(draft) != draft {
		t.Error("where nothing is granted the set is another")
	}
	mustGrant(t, d, sam, cve("CVE-1"))
	before := d.Current()
	got := d.With(draft)
	if len(got.Waivers) != len(draft.Waivers)+1 || got.Waivers[len(got.Waivers)-1].Vulnerability != "CVE-1" || got.WaiverRevision == draft.WaiverRevision {
		t.Errorf("got %+v", got.Waivers)
	}
	if d.Current() != before {
		t.Error("what is in force is another set")
	}
}

// TestAGrantedWaiverChangesOnlyWhatItNames draws evidence, waivers of files and grants, and compares the verdict with and without the
// last grant.
func TestAGrantedWaiverChangesOnlyWhatItNames(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	image := candidate(nginx, "image")
	d := newDesk(t, nil)
	waived := 0
	for range 400 {
		e := randomEvidence(r, image)
		before := gate.Decide(d.Current(), e, noon)
		request := randomRequest(r, image)
		w := mustGrant(t, d, sam, request)
		after := gate.Decide(d.Current(), e, noon)
		named := func(reason gate.Reason) bool {
			if request.Rule != "" {
				return reason.Rule == request.Rule && (request.Says == "" || request.Says == reason.Message)
			}
			f := reason.Finding
			return f != nil && f.ID == request.Vulnerability && (request.Package == "" || request.Package == f.Package.Type+"/"+f.Package.Name)
		}
		want := before.Reasons
		if request.Digest == "" || request.Digest == image.Digest {
			want = slices.DeleteFunc(slices.Clone(before.Reasons), named)
		}
		if diff := cmp.Diff(after.Reasons, want, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%+v changed other reasons (-got +want):\n%s", request, diff)
		}
		if len(after.Reasons) < len(before.Reasons) {
			waived++
		}
		for _, reason := range after.Waived {
			if !strings.Contains(reason.Waiver, "user:sam [w") || !strings.Contains(reason.Waiver, "not reachable") {
				t.Fatalf("a waived reason says %q", reason.Waiver)
			}
		}
		if r.IntN(2) == 0 {
			if _, err := d.Revoke(t.Context(), kim, w.ID, "x"); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(gate.Decide(d.Current(), e, noon).Reasons, before.Reasons, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("revoked, it leaves (-got +want):\n%s", diff)
			}
		}
		if len(d.inForce()) > 10 { // else everything is waived before long
			d = newDesk(t, nil)
		}
	}
	if waived < 40 {
		t.Errorf("only %d waivers met a reason: the law was hardly tried", waived)
	}
}

func randomEvidence(r *rand.Rand, c gate.Candidate) gate.Evidence {
	e := gate.Evidence{Candidate: c, Manifest: oci.Manifest{MediaType: oci.MediaTypeImage}, Examined: true, Looked: gate.Look{Secrets: true}}
	for range 1 + r.IntN(4) {
		e.Findings = append(e.Findings, gate.Finding{
			ID: fmt.Sprintf("CVE-%d", r.IntN(4)), Severity: gate.Critical,
			Package: gate.Package{Type: "deb", Name: []string{"tar", "zlib"}[r.IntN(2)], Version: "1"},
		})
	}
	for range r.IntN(3) {
		e.Gaps = append(e.Gaps, gate.Gap{Kind: gate.GapLimit, Why: fmt.Sprint("why ", r.IntN(3))})
	}
	for range r.IntN(3) {
		e.Inventory.Secrets = append(e.Inventory.Secrets, gate.Secret{Kind: "key", Path: fmt.Sprint("p", r.IntN(3)), Layer: digestOf("l")})
	}
	return e
}

func randomRequest(r *rand.Rand, c gate.Candidate) review.Request {
	q := review.Request{For: time.Hour, Reason: "not reachable", Repositories: []string{"docker.io/**"}}
	if r.IntN(2) == 0 {
		q.Digest = []oci.Digest{c.Digest, digestOf("other")}[r.IntN(2)]
	}
	switch r.IntN(3) {
	case 0:
		q.Vulnerability = fmt.Sprintf("CVE-%d", r.IntN(4))
		if r.IntN(2) == 0 {
			q.Package = []string{"deb/tar", "deb/zlib", "npm/tar"}[r.IntN(3)]
		}
	case 1:
		q.Rule, q.Says = gate.RuleGap, fmt.Sprint("limit: why ", r.IntN(3))
	default:
		q.Rule = []gate.Rule{gate.RuleSignatures, gate.RuleSecrets}[r.IntN(2)]
	}
	return q
}

// TestReplicasAgree has replicas decide at random, and read at random, and compares them at the end.
func TestReplicasAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	first := newDesk(t, secondApprover)
	desks := []*desk{first, first.replica(t, secondApprover), first.replica(t, nil)}
	people := []review.Person{sam, kim, {Name: "user:lee", Known: true}}
	var ids []string
	for range 200 {
		d, by := desks[r.IntN(len(desks))], people[r.IntN(len(people))]
		id := "wnone"
		if len(ids) > 0 {
			id = ids[r.IntN(len(ids))]
		}
		var err error
		switch r.IntN(5) {
		case 0, 1:
			ids = append(ids, mustGrant(t, d, by, cve(fmt.Sprint("CVE-", len(ids)))).ID)
		case 2:
			_, err = d.Approve(t.Context(), by, id, "")
		case 3:
			if r.IntN(3) == 0 {
				_, err = d.Revoke(t.Context(), by, id, "x")
			}
		default:
			err = d.Refresh(t.Context())
		}
		if err != nil && why(err) == "" {
			t.Fatal(err)
		}
	}
	desks = append(desks, first.replica(t, nil)) // one that reads it all at once
	for _, d := range desks {
		if err := d.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d.List(), desks[0].List()); diff != "" {
			t.Fatalf("replicas differ:\n%s", diff)
		}
		if d.Current().WaiverRevision != desks[0].Current().WaiverRevision {
			t.Error("replicas go by different revisions of the same waivers")
		}
	}
	if n := desks[0].Counts(); n[review.Live] == 0 || n[review.Pending] == 0 || n[review.Revoked] == 0 {
		t.Errorf("they hardly decided anything: %v", n)
	}
}

var errAppend = errors.New("no space left")

func BenchmarkCurrent(b *testing.B) {
	d := newDesk(b, nil)
	for i := range 100 {
		mustGrant(b, d, sam, cve(fmt.Sprint("CVE-", i)))
	}
	for b.Loop() {
		d.Current()
	}
}
