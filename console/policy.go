package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/simulation"
)

// Simulator tries other policies. Implementations are safe for concurrent use.
type Simulator interface {
	// Simulate tells what a draft would change, and changes nothing. Errors: simulation.ErrBusy, simulation.ErrNoPulls.
	Simulate(ctx context.Context, r simulation.Request) (simulation.Page, error)
}

// Somewhere knows whether somebody may do something in any repository. Implementations are safe for concurrent use.
type Somewhere interface {
	// AllowSomewhere is on record where it refuses. Errors: as [Access.Allow].
	AllowSomewhere(ctx context.Context, caller access.Caller, action access.Action) error
}

// DraftFile is a policy file that is to be tried.
type DraftFile struct {
	Name    string `json:"name"`
	Content string `json:"content"`
}

// Draft is what is sent to be simulated: policy files that stand for all of those in force.
type Draft struct {
	Files []DraftFile `json:"files"`
}

// Policy is what a console needs to show policies, and to try others.
type Policy struct {
	InForce gate.Policies
	// Files are the policy files in force, in their order; none for the shipped policy. Roots returns the revision of the trust roots.
	Files []string
	Roots func() string
	// Parse reads a draft as it would be read were it in force. Its errors are about the draft, and told to whoever sent it.
	Parse     func(files []DraftFile) (*gate.PolicySet, error)
	Simulator Simulator
	// Rights is needed where there is an [Access].
	Rights Somewhere
	Now    func() time.Time
}

// maxDraftBytes bounds a draft: as many as policy files may have together that anybody would send, as JSON.
const maxDraftBytes = 4 << 20

// maxDraftFiles bounds the files of a draft.
const maxDraftFiles = 64

// routePolicy has policies answered for.
func (c *Console) routePolicy() {
	if c.o.Policy == nil {
		return
	}
	c.mux.HandleFunc("GET /api/v1/policy", c.answering(c.policy))
	c.mux.HandleFunc("POST /api/v1/policy/simulate", c.serveSimulation)
	c.mux.HandleFunc("GET /policy", c.servePolicyPage)
}

// PolicyFacts is what the admin API says of the policies in force.
type PolicyFacts struct {
	Revision       string `json:"revision"`
	WaiverRevision string `json:"waiver_revision"`
	RootsRevision  string `json:"roots_revision"`
	// Files are the policy files; none for the shipped policy.
	Files    []string     `json:"files"`
	Policies []PolicyFact `json:"policies"`
	// Waivers are those in force, those that have lapsed too.
	Waivers []WaiverFact `json:"waivers"`
}

// PolicyFact is one policy. The first whose patterns fit a repository decides.
type PolicyFact struct {
	Name   string `json:"name"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	Mode   string `json:"mode"`
	OnFail string `json:"on_fail"`
	// Match and Except are patterns over full repository names.
	Match  []string `json:"match"`
	Except []string `json:"except,omitempty"`
	// Rules are what it asks for, and in which line.
	Rules []RuleFact `json:"rules"`
}

// RuleFact is that a policy asks for something.
type RuleFact struct {
	Rule gate.Rule `json:"rule"`
	Line int       `json:"line"`
}

// WaiverFact is one waiver.
type WaiverFact struct {
	Vulnerability string     `json:"vulnerability,omitempty"`
	Package       string     `json:"package,omitempty"`
	Rule          gate.Rule  `json:"rule,omitempty"`
	Repositories  []string   `json:"repositories,omitempty"`
	Digest        oci.Digest `json:"digest,omitempty"`
	Until         time.Time  `json:"until"`
	Reason        string     `json:"reason"`
	By            string     `json:"by"`
	// Lapsed says that it waives nothing any more.
	Lapsed bool `json:"lapsed,omitempty"`
}

// maySomewhere returns nil if whoever sends r may do action in any repository. Without an [Access] everybody who reaches the console may.
func (c *Console) maySomewhere(r *http.Request, action access.Action) (access.Caller, error) {
	if c.o.Access == nil {
		return access.Caller{}, nil
	}
	caller, err := c.o.Access.Identify(r)
	if err != nil {
		return access.Caller{}, err
	}
	return caller, c.o.Policy.Rights.AllowSomewhere(r.Context(), caller, action)
}

// policy answers which policies are in force.
func (c *Console) policy(r *http.Request) (any, error) {
	if _, err := c.maySomewhere(r, access.Review); err != nil {
		return nil, err
	}
	return c.policyFacts(), nil
}

func (c *Console) policyFacts() PolicyFacts {
	set := c.o.Policy.InForce.Current()
	facts := PolicyFacts{
		Revision: set.Revision, WaiverRevision: set.WaiverRevision, RootsRevision: c.o.Policy.Roots(),
		Files: append([]string{}, c.o.Policy.Files...), Policies: []PolicyFact{}, Waivers: []WaiverFact{},
	}
	for _, p := range set.Policies {
		fact := PolicyFact{
			Name: p.Name, File: p.File, Line: p.Line, Mode: "enforce", OnFail: "block", Match: texts(p.Match), Except: texts(p.Except), Rules: []RuleFact{},
		}
		if p.Mode == gate.Warn {
			fact.Mode = "warn"
		}
		if p.OnFail == gate.Quarantine {
			fact.OnFail = "quarantine"
		}
		for _, rule := range gate.Rules() {
			if line := p.Lines[rule]; line > 0 {
				fact.Rules = append(fact.Rules, RuleFact{rule, line})
			}
		}
		facts.Policies = append(facts.Policies, fact)
	}
	now := c.o.Policy.Now()
	for _, w := range set.Waivers {
		facts.Waivers = append(facts.Waivers, WaiverFact{
			Vulnerability: w.Vulnerability, Package: w.Package, Rule: w.Rule, Repositories: texts(w.Repositories), Digest: w.Digest,
			Until: w.Until.UTC(), Reason: w.Reason, By: w.By, Lapsed: !now.Before(w.Until),
		})
	}
	return facts
}

func texts(patterns []oci.Pattern) (all []string) {
	for _, p := range patterns {
		all = append(all, p.String())
	}
	return all
}

func (c *Console) servePolicyPage(w http.ResponseWriter, r *http.Request) {
	if _, err := c.maySomewhere(r, access.Review); err != nil {
		status, message := c.failure(w, r, err)
		c.render(w, r, status, "error.html", message)
		return
	}
	c.render(w, r, http.StatusOK, "policy.html", c.policyFacts())
}

// simulationTimeout bounds one page of a simulation: what is looked for may have to be fetched.
const simulationTimeout = 10 * time.Minute

func (c *Console) serveSimulation(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), simulationTimeout)
	defer cancel()
	page, err := c.simulate(ctx, w, r)
	switch {
	case errors.Is(err, simulation.ErrBusy):
		w.Header().Set("Retry-After", "5")
		err = &oci.Error{Code: oci.CodeTooManyRequests, Message: err.Error()}
	case errors.Is(err, simulation.ErrNoPulls):
		err = refusedDraft("since: %v", err)
	}
	c.writeJSON(w, r, page, err)
}

// simulate tries the draft that r holds. Of repositories that whoever sent it does not administer nothing is told.
func (c *Console) simulate(ctx context.Context, w http.ResponseWriter, r *http.Request) (simulation.Page, error) {
	caller, err := c.maySomewhere(r, access.Admin)
	if err == nil && c.o.Access == nil && c.o.Review != nil { // it takes a processor, so it is for those who may decide
		_, _, err = c.decider(r)
	}
	if err != nil {
		return simulation.Page{}, err
	}
	asked, pattern, err := c.simulationAsked(r)
	if err != nil {
		return simulation.Page{}, err
	}
	files, err := readDraft(w, r)
	if err != nil {
		return simulation.Page{}, err
	}
	if asked.Draft, err = c.o.Policy.Parse(files); err != nil {
		return simulation.Page{}, refusedDraft("%v", err)
	}
	asked.Wanted = func(repo oci.Repository) bool {
		return (pattern == nil || pattern.Match(repo.String())) && (c.o.Access == nil || c.o.Access.May(caller, access.Admin, repo))
	}
	return c.o.Policy.Simulator.Simulate(ctx, asked)
}

// simulationAsked reads what the query of r asks for.
func (c *Console) simulationAsked(r *http.Request) (asked simulation.Request, pattern *oci.Pattern, err error) {
	query := r.URL.Query()
	asked.After = query.Get("after")
	if s := query.Get("since"); s != "" {
		since, err := time.ParseDuration(s)
		if err != nil || since <= 0 {
			return asked, nil, refusedDraft("since: %.60q is no time such as 168h", s)
		}
		asked.Since = c.o.Policy.Now().Add(-since)
	}
	if s := query.Get("repository"); s != "" {
		p, err := oci.ParseFullPattern(s)
		if err != nil {
			return asked, nil, refusedDraft("repository: %v", err)
		}
		pattern = &p
	}
	if s := query.Get("fetch"); s != "" {
		if asked.Fetch, err = strconv.ParseBool(s); err != nil {
			return asked, nil, refusedDraft("fetch: %.60q is neither true nor false", s)
		}
	}
	if s := query.Get("limit"); s != "" {
		if asked.Limit, err = strconv.Atoi(s); err != nil || asked.Limit < 1 || asked.Limit > simulation.MaxPage {
			return asked, nil, refusedDraft("limit: %.60q is no number from 1 to %d", s, simulation.MaxPage)
		}
	}
	return asked, pattern, nil
}

// draftName is what a draft is called whose sender does not say.
const draftName = "draft.yaml"

// readDraft reads what was sent: one policy file as YAML, or several as [Draft]. No page of another site can have a browser send either
// without asking here first.
func readDraft(w http.ResponseWriter, r *http.Request) ([]DraftFile, error) {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	isYAML := mediaType == "application/yaml" || mediaType == "application/x-yaml" || mediaType == "text/yaml"
	if err != nil || !isYAML && mediaType != "application/json" {
		return nil, &oci.Error{
			Code: oci.CodeUnsupported, HTTPStatus: http.StatusUnsupportedMediaType,
			Message: "want a policy file of Content-Type application/yaml, or files of application/json",
		}
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDraftBytes))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, &oci.Error{Code: oci.CodeSizeInvalid, HTTPStatus: http.StatusRequestEntityTooLarge, Message: fmt.Sprintf("more than %d bytes", maxDraftBytes)}
	} else if err != nil {
		return nil, refusedDraft("the body: it breaks off")
	}
	if isYAML {
		return []DraftFile{{Name: draftName, Content: string(raw)}}, nil
	}
	var d Draft
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, refusedDraft("the body: %.200s", err)
	}
	if len(d.Files) == 0 || len(d.Files) > maxDraftFiles {
		return nil, refusedDraft("the body: want 1 to %d files", maxDraftFiles)
	}
	return d.Files, nil
}

// refusedDraft is the answer to a draft, or a question about one, that is wrong.
func refusedDraft(format string, args ...any) error {
	return &oci.Error{Code: oci.CodeUnknown, HTTPStatus: http.StatusBadRequest, Message: fmt.Sprintf(format, args...)}
}
