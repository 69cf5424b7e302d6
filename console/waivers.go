package console

import (
	"net/http"
	"slices"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/review"
)

// WaiverList is what the admin API says of waivers.
type WaiverList struct {
	Waivers []review.Standing `json:"waivers"`
}

// addReview registers what people decide with.
func (c *Console) addReview() {
	c.mux.HandleFunc("GET /api/v1/waivers", c.serveWaivers)
	c.mux.HandleFunc("POST /api/v1/waivers", c.grantWaiver)
	c.mux.HandleFunc("GET /api/v1/waivers/{id}", c.serveWaiver)
	c.mux.HandleFunc("DELETE /api/v1/waivers/{id}", c.revokeWaiver)
	c.mux.HandleFunc("POST /api/v1/waivers/{id}/approve", c.approveWaiver)
	c.mux.HandleFunc("GET /waivers", c.serveWaiversPage)
	c.mux.HandleFunc("GET /api/v1/quarantine", c.serveQuarantine)
	c.mux.HandleFunc("GET /api/v1/quarantine/{reference...}", c.serveQuarantined)
	c.mux.note("GET /api/v1/quarantine/{reference...}/manifest")
	c.mux.note("GET /api/v1/quarantine/{reference...}/blobs/{digest}")
	c.mux.ServeMux.HandleFunc("POST /api/v1/quarantine/{reference...}", c.decideQuarantined)
	c.mux.note("POST /api/v1/quarantine/{reference...}/release")
	c.mux.note("POST /api/v1/quarantine/{reference...}/drop")
	c.mux.HandleFunc("GET /quarantine", c.serveQuarantinePage)
	c.mux.HandleFunc("GET /quarantine/{reference...}", c.serveQuarantinedPage)
}

// waivers returns those whoever sends r may see, and asks for.
func (c *Console) waivers(r *http.Request) (WaiverList, error) {
	see, err := c.reviewer(r)
	if err != nil {
		return WaiverList{}, err
	}
	state := review.State(r.URL.Query().Get("state"))
	if state != "" && !slices.Contains(review.States(), state) {
		return WaiverList{}, invalid("state is not one of %v", review.States())
	}
	list := WaiverList{Waivers: []review.Standing{}}
	for _, s := range c.o.Review.Waivers.List() {
		if see.waiver(s.Waiver) && (state == "" || s.State == state) {
			list.Waivers = append(list.Waivers, s)
		}
	}
	return list, nil
}

func (c *Console) serveWaivers(w http.ResponseWriter, r *http.Request) {
	list, err := c.waivers(r)
	c.writeJSON(w, r, list, err)
}

func (c *Console) serveWaiversPage(w http.ResponseWriter, r *http.Request) {
	list, err := c.waivers(r)
	c.writePage(w, r, "waivers.html", list, err)
}

// named returns the waivers called as r says, if whoever sends it may see them all. Others do not learn whether there are any.
func (c *Console) named(r *http.Request) ([]review.Standing, error) {
	see, err := c.reviewer(r)
	if err != nil {
		return nil, err
	}
	named := c.o.Review.Waivers.Named(r.PathValue("id"))
	if len(named) == 0 || slices.ContainsFunc(named, func(s review.Standing) bool { return !see.waiver(s.Waiver) }) {
		return nil, &review.Refusal{Why: review.Unknown, Message: "there is no such waiver, or it is not yours to see"}
	}
	return named, nil
}

func (c *Console) serveWaiver(w http.ResponseWriter, r *http.Request) {
	named, err := c.named(r)
	c.writeJSON(w, r, WaiverList{named}, err)
}

// Grant is what is sent to grant a waiver.
type Grant struct {
	review.Request
	// For is how long it lasts, "72h", where Until does not say.
	For string `json:"for,omitempty"`
}

func (c *Console) grantWaiver(w http.ResponseWriter, r *http.Request) {
	made, err := c.granted(w, r)
	c.writeJSONAs(w, r, http.StatusCreated, WaiverList{made}, err)
}

func (c *Console) granted(w http.ResponseWriter, r *http.Request) ([]review.Standing, error) {
	if _, _, err := c.decider(r); err != nil {
		return nil, err
	}
	var asked Grant
	if err := readBody(w, r, &asked); err != nil {
		return nil, err
	}
	scopes, err := asked.Scopes()
	if err != nil {
		return nil, err
	}
	if asked.Request.For, err = readFor(asked.For); err != nil {
		return nil, err
	}
	by, err := c.decidesThroughout(r, scopes)
	if err != nil {
		return nil, err
	}
	return c.o.Review.WaiverDesk.Grant(r.Context(), by, asked.Request)
}

// Reasoned is what is sent to decide about something that is there.
type Reasoned struct {
	Reason string `json:"reason"`
}

func (c *Console) approveWaiver(w http.ResponseWriter, r *http.Request) {
	c.changeWaiver(w, r, func(by review.Person, reason string) ([]review.Standing, error) {
		return c.o.Review.WaiverDesk.Approve(r.Context(), by, r.PathValue("id"), reason)
	})
}

func (c *Console) revokeWaiver(w http.ResponseWriter, r *http.Request) {
	c.changeWaiver(w, r, func(by review.Person, reason string) ([]review.Standing, error) {
		return c.o.Review.WaiverDesk.Revoke(r.Context(), by, r.PathValue("id"), reason)
	})
}

// changeWaiver has whoever may decide about all that a waiver reaches do so.
func (c *Console) changeWaiver(w http.ResponseWriter, r *http.Request, change func(review.Person, string) ([]review.Standing, error)) {
	changed, err := func() ([]review.Standing, error) {
		if _, _, err := c.decider(r); err != nil {
			return nil, err
		}
		var body Reasoned
		if err := readBody(w, r, &body); err != nil {
			return nil, err
		}
		named, err := c.named(r)
		if err != nil {
			return nil, err
		}
		var scopes []oci.Pattern
		for _, s := range named[:1] { // those of a release reach the same
			scopes = s.Scopes()
		}
		by, err := c.decidesThroughout(r, scopes)
		if err != nil {
			return nil, err
		}
		return change(by, body.Reason)
	}()
	c.writeJSON(w, r, WaiverList{changed}, err)
}

// writePage renders a page about content or, when err is not nil, the sentence for it.
func (c *Console) writePage(w http.ResponseWriter, r *http.Request, page string, content any, err error) {
	if err != nil {
		status, message := c.failure(w, r, err)
		c.render(w, r, status, "error.html", message)
		return
	}
	c.render(w, r, http.StatusOK, page, content)
}

// candidate returns the image a reference names. Errors: as [Console.image].
func (c *Console) candidate(r *http.Request, ref oci.Reference) (gate.Candidate, error) {
	if ref.Digest == "" {
		desc, _, err := c.o.Resolver.Resolve(r.Context(), ref.Repository, ref.Tag)
		if err != nil {
			return gate.Candidate{}, err
		}
		ref.Digest = desc.Digest
	}
	return gate.Candidate{Repository: ref.Repository, Digest: ref.Digest}, nil
}
