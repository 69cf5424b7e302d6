package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"time"

	"github.com/tidewaiter/tidewaiter/notify"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Letters are events that webhooks were told of in vain. Implementations are safe for concurrent use.
type Letters interface {
	// DeadLetters returns all of them, oldest first.
	DeadLetters(ctx context.Context) ([]notify.Stored, error)
	// Redeliver has the one of that name delivered anew. Errors: notify.ErrNoLetter.
	Redeliver(ctx context.Context, name string) error
	// Drop forgets the one of that name. Errors: notify.ErrNoLetter.
	Drop(ctx context.Context, name string) error
}

const lettersPath = "/api/v1/webhooks/dead-letters"

// maxActionBytes bounds what is posted: names of all letters that can be kept for some webhooks.
const maxActionBytes = 1 << 20

// DeadLetter is an event a webhook was told of in vain.
type DeadLetter struct {
	Name     string      `json:"name"`
	Webhook  string      `json:"webhook"`
	Type     notify.Type `json:"type"`
	Subject  string      `json:"subject,omitempty"`
	Attempts int         `json:"attempts"`
	FailedAt time.Time   `json:"failed_at"`
	Problem  string      `json:"problem"`
	// Event is the event itself, as a CloudEvent.
	Event json.RawMessage `json:"event"`
}

// DeadLetters is what the admin API answers.
type DeadLetters struct {
	DeadLetters []DeadLetter `json:"dead_letters"`
}

// LetterAction is what is to become of dead letters.
type LetterAction struct {
	// Action is "retry" or "drop".
	Action string   `json:"action"`
	Names  []string `json:"names"`
}

// LetterActions is what became of them: Done, or Missing because there are none of these names, or their webhook is not configured.
type LetterActions struct {
	Done    []string `json:"done"`
	Missing []string `json:"missing"`
}

// errAction says that what was posted is none.
var errAction = &malformed{`what is posted must be JSON: {"action": "retry" or "drop", "names": [...]}`}

// malformed is a request that cannot be understood. Its text is for whoever sent it.
type malformed struct{ message string }

func (e *malformed) Error() string { return e.message }

func (c *Console) serveLetters(w http.ResponseWriter, r *http.Request) {
	letters, err := c.letters(r)
	c.writeJSON(w, r, letters, err)
}

func (c *Console) letters(r *http.Request) (DeadLetters, error) {
	answer := DeadLetters{DeadLetters: []DeadLetter{}}
	if err := c.operates(r, "looking at dead letters"); err != nil {
		return answer, err
	}
	dead, err := c.o.Letters.DeadLetters(r.Context())
	for _, d := range dead {
		answer.DeadLetters = append(answer.DeadLetters, DeadLetter{
			Name: d.Name, Webhook: d.Webhook, Type: d.Type, Subject: d.Subject, Attempts: d.Attempts, FailedAt: d.FailedAt, Problem: d.Problem,
			Event: d.Body,
		})
	}
	return answer, err
}

// operates returns nil if whoever sends r may see what is about no repository. Looking is not put on record, being kept from it is.
func (c *Console) operates(r *http.Request, doing string) error {
	if c.o.Access == nil {
		return nil
	}
	caller, err := c.o.Access.Identify(r)
	if err != nil || c.o.Operators.Operates(caller) {
		return err
	}
	return c.o.Operators.Operate(r.Context(), caller, doing)
}

func (c *Console) serveLetterActions(w http.ResponseWriter, r *http.Request) {
	done, err := c.actOnLetters(w, r)
	c.writeJSON(w, r, done, err)
}

func (c *Console) actOnLetters(w http.ResponseWriter, r *http.Request) (LetterActions, error) {
	answer := LetterActions{Done: []string{}, Missing: []string{}}
	asked, err := readAction(w, r)
	if err != nil {
		return answer, err
	}
	act := c.o.Letters.Redeliver
	if asked.Action == "drop" {
		act = c.o.Letters.Drop
	}
	if c.o.Access == nil && c.o.Review != nil { // nobody is asked who it is: then it is as with all that is decided
		if _, _, err := c.decider(r); err != nil {
			return answer, err
		}
	}
	doing := fmt.Sprintf("%s %d dead letters", asked.Action, len(asked.Names))
	if c.o.Access != nil {
		caller, err := c.o.Access.Identify(r)
		if err != nil {
			return answer, err
		}
		if err := c.o.Operators.Operate(r.Context(), caller, doing); err != nil {
			return answer, err
		}
	}
	c.o.Log.InfoContext(r.Context(), "dead letters", "step", asked.Action, "client", r.RemoteAddr, "letters", len(asked.Names))
	for _, name := range asked.Names {
		switch err := act(r.Context(), name); {
		case errors.Is(err, notify.ErrNoLetter):
			answer.Missing = append(answer.Missing, name)
		case err != nil:
			return answer, err
		default:
			answer.Done = append(answer.Done, name)
		}
	}
	return answer, nil
}

// readAction reads what is posted. A browser posts JSON to another site only if that says it may, which we do not.
//
// Errors: errAction.
func readAction(w http.ResponseWriter, r *http.Request) (LetterAction, error) {
	var asked LetterAction
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return asked, errAction
	}
	body, err := oci.ReadBounded(http.MaxBytesReader(w, r.Body, maxActionBytes), maxActionBytes)
	if err != nil {
		return asked, errAction
	}
	if err := json.Unmarshal(body, &asked); err != nil || asked.Action != "retry" && asked.Action != "drop" || len(asked.Names) == 0 {
		return asked, errAction
	}
	return asked, nil
}
