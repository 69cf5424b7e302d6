package console

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
)

// link is an entry of the navigation.
type link struct {
	Path, Name string
	// About is the sentence the first page has beside it.
	About string
	// Current says that it leads to where one is.
	Current bool
}

// links are all there can be, in their order. Those are shown whose pages this console has.
var links = []link{
	{Path: "/images", Name: "Images", About: "what was judged, and how it stands"},
	{Path: "/quarantine", Name: "Quarantine", About: "what is denied, and kept for people to decide about"},
	{Path: "/waivers", Name: "Waivers", About: "exceptions, with their reasons and ends"},
	{Path: "/recalls", Name: "Recalls", About: "what was withdrawn after clients had pulled it, and who has it"},
	{Path: "/policy", Name: "Policy", About: "what images are judged by"},
	{Path: "/advisories", Name: "Advisories", About: "which data on vulnerabilities is in use, and how old it is"},
	{Path: "/audit", Name: "Audit log", About: "who did what, and who was kept from it"},
}

// contentPolicy is what browsers may do with a page: no script runs here, whatever an image calls itself.
const contentPolicy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action "

// withForm lets the page that is sent have a form, which asks for a list here and changes nothing.
func (c *Console) withForm(w http.ResponseWriter) {
	w.Header().Set("Content-Security-Policy", contentPolicy+"'self'")
}

// navigation returns the links of a page at path.
func (c *Console) navigation(path string) []link {
	var shown []link
	for _, l := range links {
		if slices.Contains(c.mux.patterns, "GET "+l.Path) {
			l.Current = path == l.Path || strings.HasPrefix(path, l.Path+"/")
			shown = append(shown, l)
		}
	}
	return shown
}

// title returns what a browser's window is called.
func title(r *http.Request, nav []link) string {
	if reference := r.PathValue("reference"); reference != "" {
		return reference + " · Tidewaiter"
	}
	for _, l := range nav {
		if l.Current {
			return l.Name + " · Tidewaiter"
		}
	}
	return "Tidewaiter"
}

// functions are what pages write things with.
func functions() map[string]any {
	return map[string]any{
		"moment": moment, "lapse": lapse, "worst": worst,
		"maxFindings": func() int { return maxFindings },
		"decisions":   func() []string { return []string{gate.Allow.String(), gate.Deny.String()} },
	}
}

// maxFindings is how many findings a page shows. Of an image with more nobody reads a page.
const maxFindings = 200

// worst returns the worst of findings, those first, as many as a page shows.
func worst(findings []gate.Finding) []gate.Finding {
	sorted := slices.Clone(findings)
	slices.SortStableFunc(sorted, func(a, b gate.Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	return sorted[:min(len(sorted), maxFindings)]
}

// moment writes a time as every page does, UTC.
func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05 MST")
}

// lapse writes a number of seconds as people say it, in days or hours or minutes.
func lapse(seconds int64) string {
	switch d := time.Duration(seconds) * time.Second; {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	default:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
}

// origin is where a database came from, as the admin API tells it.
type origin struct {
	From        string
	Digest      string
	Verified    string
	BuiltAt     time.Time `json:"built_at"`
	InstalledAt time.Time `json:"installed_at"`
}

// advisoryPage is what the page on advisories shows of what the admin API answers.
type advisoryPage struct {
	Source      string
	Snapshot    string
	BuiltAt     time.Time `json:"built_at"`
	AgeSeconds  int64     `json:"age_seconds"`
	Until       time.Time
	Stale       bool
	InUse       *origin `json:"in_use"`
	Previous    *origin
	SucceededAt time.Time `json:"succeeded_at"`
	FailedAt    time.Time `json:"failed_at"`
	Failure     string
	NextAt      time.Time `json:"next_at"`
}

// serveAdvisoriesPage shows what the admin API tells, so that the two cannot differ.
func (c *Console) serveAdvisoriesPage(w http.ResponseWriter, r *http.Request) {
	page, err := func() (page advisoryPage, err error) {
		facts, err := c.o.Advisories(r.Context())
		if err != nil {
			return page, err
		}
		raw, err := json.Marshal(facts)
		if err != nil {
			return page, err
		}
		return page, json.Unmarshal(raw, &page)
	}()
	c.writePage(w, r, "advisories.html", page, err)
}

func (c *Console) serveRecallsPage(w http.ResponseWriter, r *http.Request) {
	list, err := c.recalls(r)
	c.writePage(w, r, "recalls.html", list, err)
}
