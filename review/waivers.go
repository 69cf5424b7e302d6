package review

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// How often the log is read for what other replicas decided, and for how long waivers count without its having been read: a revocation
// elsewhere takes no longer than that to count here.
const (
	pollEvery = 3 * time.Second
	Unread    = 15 * time.Second
	// rereadEvery is how often all of the log is listed, and not only its latest days: a replica whose clock is far behind writes there.
	rereadEvery = time.Hour
	readTimeout = 10 * time.Second // some lists and a few small records
)

// Log keeps what was decided. Implementations are safe for concurrent use, also beside others like it on other replicas.
type Log interface {
	// Append records what happened. When it returns nil a restart does not lose it. The name sorts by time, after all names that were
	// read before, and is no other record's.
	Append(ctx context.Context, repo oci.Repository, e Event) (name string, err error)
	// Records calls found, not at the same time and in no order, with each record whose name is not known, of the day before since
	// and later; of any time for the zero time. One that is not believed comes as the zero Event.
	Records(ctx context.Context, repo oci.Repository, since time.Time, known func(name string) bool, found func(name string, e Event)) error
}

// Options are what Waivers are built from. All but Notify are needed.
type Options struct {
	// Files are the policy files, whose waivers count as well, and whose waiver_max bounds those that are granted.
	Files gate.Policies
	Log   Log
	Audit Audit
	// SecondApprover says that what one person grants counts once another approves it.
	SecondApprover bool
	// WarnBefore is how long before a waiver lapses that is said; 0 for never.
	WarnBefore time.Duration
	// Notify is told of every act, after it has had its effect. It must not block. Nil for nobody.
	Notify func(Act)
	Now    func() time.Time
	Logger *slog.Logger
}

// Waivers are the exceptions in force: those of the policy files and those granted. They implement gate.Policies and are safe for
// concurrent use.
type Waivers struct {
	o Options
	// changing is held while something is decided, from looking how things stand until that is on record.
	changing sync.Mutex
	// reading is held while the log is read.
	reading sync.Mutex

	mu       sync.Mutex
	names    map[string]bool // guarded by mu
	entries  []entry         // guarded by mu; sorted by name
	warned   map[string]Kind // guarded by mu; what was said of the end of a waiver
	listedAt time.Time       // guarded by mu; when all of the log was last listed

	state  atomic.Pointer[granted]
	readAt atomic.Pointer[time.Time] // when the last successful reading began
	joined atomic.Pointer[joined]
	lapsed atomic.Bool // the log has not been read for so long that waivers do not count, and that was said

	began time.Time
	end   context.CancelFunc
	ended chan struct{}
}

// granted is what the log says, and what of it the gate goes by. It is never modified.
type granted struct {
	folded
	waivers []gate.Waiver
	// revision identifies the waivers that count; empty when there are none. It does not depend on the time, nor on the replica.
	revision string
}

// joined is a set made of two. It is never modified.
type joined struct {
	files   *gate.PolicySet
	granted *granted
	set     *gate.PolicySet
}

// Open reads the log and goes on reading it until Close. It panics when an option it cannot do without is missing.
//
// Errors: the log cannot be read.
func Open(ctx context.Context, o Options) (*Waivers, error) {
	if o.Files == nil || o.Log == nil || o.Audit == nil || o.Now == nil || o.Logger == nil {
		panic("review: an option is missing")
	}
	if o.Notify == nil {
		o.Notify = func(Act) {}
	}
	w := &Waivers{o: o, names: map[string]bool{}, warned: map[string]Kind{}, began: o.Now(), ended: make(chan struct{})}
	if err := w.Refresh(ctx); err != nil {
		return nil, err
	}
	lifetime, end := context.WithCancel(context.WithoutCancel(ctx))
	w.end = end
	go w.poll(lifetime)
	return w, nil
}

// Close stops reading the log.
func (w *Waivers) Close() error {
	w.end()
	<-w.ended
	return nil
}

// poll reads the log every so often, for there may be nobody to tell that another replica wrote in it.
func (w *Waivers) poll(ctx context.Context) {
	defer close(w.ended)
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			reading, cancel := context.WithTimeout(ctx, readTimeout)
			err := w.Refresh(reading)
			cancel()
			if err != nil && ctx.Err() == nil {
				w.o.Logger.WarnContext(ctx, "the log of waivers was not read", "err", err)
			}
			w.warn(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// Refresh reads what was decided since, here and on other replicas.
func (w *Waivers) Refresh(ctx context.Context) error {
	w.reading.Lock()
	defer w.reading.Unlock()
	began := w.o.Now()
	w.mu.Lock()
	since := began
	if began.Sub(w.listedAt).Abs() >= rereadEvery {
		since = time.Time{}
	}
	w.mu.Unlock()
	var found []entry
	err := w.o.Log.Records(ctx, oci.Repository{}, since, w.known, func(name string, e Event) { found = append(found, entry{name, e}) })
	if err != nil {
		return fmt.Errorf("reading the log of waivers: %w", err)
	}
	for _, e := range found {
		if e.event.Kind == "" {
			w.o.Logger.ErrorContext(ctx, "a decision is not believed: waivers granted before it do not count any more, grant them again", "record", e.name)
		}
	}
	w.add(found)
	w.mu.Lock()
	if since.IsZero() {
		w.listedAt = began
	}
	w.mu.Unlock()
	w.readAt.Store(&began)
	if w.lapsed.Swap(false) {
		w.o.Logger.InfoContext(ctx, "the log of waivers is read again: they count")
	}
	return nil
}

func (w *Waivers) known(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.names[name]
}

// add takes over records, each once, and brings what counts in line with them.
func (w *Waivers) add(found []entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	changed := w.state.Load() == nil
	for _, e := range found {
		if w.names[e.name] {
			continue
		}
		w.names[e.name], changed = true, true
		at, _ := slices.BinarySearchFunc(w.entries, e.name, func(e entry, name string) int { return cmp.Compare(e.name, name) })
		w.entries = slices.Insert(w.entries, at, e)
	}
	if changed {
		w.state.Store(newGranted(fold(w.entries), w.o.Now()))
	}
}

// newGranted returns f with what of it the gate goes by. Waivers that have lapsed waive nothing, and count in the revision all the same:
// replicas that look at different times have to come to the same one.
func newGranted(f folded, now time.Time) *granted {
	g := &granted{folded: f}
	counts := f.counts()
	for _, s := range counts {
		if now.Before(s.Until) {
			g.waivers = append(g.waivers, s.inForce(s.ApprovedBy))
		}
	}
	if len(counts) > 0 {
		g.revision = hashed(counts)
	}
	return g
}

func hashed(v any) string {
	encoded, err := json.Marshal(v)
	if err != nil { // their times are within the years that were let pass, and nothing else can fail
		panic(fmt.Sprintf("review: encoding a revision: %v", err))
	}
	sum := sha256.Sum256(encoded)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Current implements [gate.Policies]. It is called for every request and waits for nothing.
func (w *Waivers) Current() *gate.PolicySet {
	files, g := w.o.Files.Current(), w.state.Load()
	if g.revision == "" || w.unread() {
		return files
	}
	if j := w.joined.Load(); j != nil && j.files == files && j.granted == g {
		return j.set
	}
	set := g.with(files)
	w.joined.Store(&joined{files, g, set})
	return set
}

// With returns the policies and waivers of files with the waivers that are granted now, as if files were in force.
func (w *Waivers) With(files *gate.PolicySet) *gate.PolicySet {
	g := w.state.Load()
	if g.revision == "" || w.unread() {
		return files
	}
	return g.with(files)
}

// with returns files with the waivers granted.
func (g *granted) with(files *gate.PolicySet) *gate.PolicySet {
	set := *files
	set.Waivers = slices.Concat(files.Waivers, g.waivers)
	set.WaiverRevision = hashed([]string{"joined", files.WaiverRevision, g.revision})
	return &set
}

// unread reports whether the log was last read so long ago that what was granted must not count.
func (w *Waivers) unread() bool {
	age := w.o.Now().Sub(*w.readAt.Load())
	if age < Unread {
		return false
	}
	if !w.lapsed.Swap(true) {
		w.o.Logger.Error("the log of waivers cannot be read: those granted do not count until it can", "since", *w.readAt.Load())
	}
	return true
}

// List returns every waiver, those of the policy files first and then those granted, newest first, as they stand now.
func (w *Waivers) List() []Standing {
	now := w.o.Now()
	var all []Standing
	for _, f := range w.o.Files.Current().Waivers {
		all = append(all, ofFile(f).at(now))
	}
	for _, s := range slices.Backward(w.state.Load().standings) {
		all = append(all, s.at(now))
	}
	return all
}

// Named returns the waiver called id, or those of the release called so; none if there is none.
func (w *Waivers) Named(id string) []Standing {
	found := w.state.Load().named(id)
	for i := range found {
		found[i] = found[i].at(w.o.Now())
	}
	return found
}

func ofFile(f gate.Waiver) Standing {
	s := Standing{State: Live, Source: "file", Waiver: Waiver{
		Vulnerability: f.Vulnerability, Package: f.Package, Rule: f.Rule, Says: f.Says, Digest: f.Digest, Until: f.Until, Reason: f.Reason, By: f.By,
	}}
	for _, p := range f.Repositories {
		s.Repositories = append(s.Repositories, p.String())
	}
	return s
}

// Expiring returns the waivers that count and will have lapsed in that time, the first to lapse first.
func (w *Waivers) Expiring(within time.Duration) []Standing {
	end := w.o.Now().Add(within)
	all := slices.DeleteFunc(w.List(), func(s Standing) bool { return s.State != Live || s.Until.After(end) })
	slices.SortStableFunc(all, func(a, b Standing) int { return a.Until.Compare(b.Until) })
	return all
}

// Counts returns how many waivers there are in each state.
func (w *Waivers) Counts() map[State]int {
	counts := map[State]int{}
	for _, s := range w.List() {
		counts[s.State]++
	}
	return counts
}

// warn says once of each waiver that it will lapse soon, and once that it has. What lapsed before this process began was said by
// another, or is too old to be news.
func (w *Waivers) warn(ctx context.Context) {
	now := w.o.Now()
	for _, s := range w.List() {
		var kind Kind
		switch {
		case s.State == Expired && s.Until.After(w.began):
			kind = KindExpired
		case s.State == Live && w.o.WarnBefore > 0 && !s.Until.After(now.Add(w.o.WarnBefore)):
			kind = KindExpiring
		default:
			continue
		}
		id := s.ID
		if id == "" {
			id = hashed(s.Waiver)
		}
		w.mu.Lock()
		said := w.warned[id]
		w.warned[id] = kind
		w.mu.Unlock()
		if said == kind {
			continue
		}
		w.o.Logger.WarnContext(ctx, "a waiver "+map[Kind]string{KindExpired: "has lapsed", KindExpiring: "will lapse"}[kind],
			"waiver", s.ID, "source", s.Source, "about", s.about(), "until", s.Until, "by", s.By)
		w.o.Notify(Act{Kind: kind, Waivers: []Waiver{s.Waiver}})
	}
}

// about says in a few words what the waiver waives and where.
func (w Waiver) about() string {
	words := []string{cmp.Or(w.Vulnerability, string(w.Rule))}
	if w.Package != "" {
		words = append(words, "in", w.Package)
	}
	if len(w.Repositories) > 0 {
		words = append(words, "of", strings.Join(w.Repositories, ", "))
	}
	if w.Digest != "" {
		words = append(words, w.Digest.String())
	}
	return strings.Join(words, " ")
}
