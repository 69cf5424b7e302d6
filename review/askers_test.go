package review_test

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/review"
)

func TestAskersAreCountedAcrossReplicas(t *testing.T) {
	c := &clock{at: noon}
	l := newLog[review.Asking]()
	open := func() *review.Askers { return review.NewAskers(l, c.now, slog.New(slog.DiscardHandler)) }
	image := candidate(nginx, "image")
	a, b := open(), open()
	a.Note(image, kim)
	c.pass(time.Minute)
	b.Note(image, sam)
	b.Note(image, who)
	if err := errors.Join(a.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	again := open() // after a restart
	defer func() { _ = again.Close() }()
	again.Note(image, sam)
	again.Note(candidate(nginx, "another"), sam)
	got, err := again.Asked(t.Context(), image)
	want := review.Asked{
		Count: 4, First: review.Asker{By: kim.Name, Address: kim.Address, At: noon}, Last: got.Last,
	}
	if diff := cmp.Diff(got, want); err != nil || diff != "" || !got.Last.At.Equal(noon.Add(time.Minute)) {
		t.Errorf("%v, last %+v (-got +want):\n%s", err, got.Last, diff)
	}
	if got, err := again.Asked(t.Context(), candidate(nginx, "nobody's")); err != nil || got != (review.Asked{}) {
		t.Errorf("what nobody asked for: %+v, %v", got, err)
	}
}

func TestAskersThatCannotBeWrittenAreKept(t *testing.T) {
	c := &clock{at: noon}
	l := newLog[review.Asking]()
	a := review.NewAskers(l, c.now, slog.New(slog.DiscardHandler))
	image := candidate(nginx, "image")
	a.Note(image, kim)
	l.fail(errors.New("the storage is gone"))
	if err := a.Close(); err == nil {
		t.Error("closing says nothing of what is lost")
	}
	l.fail(nil)
	if got, err := a.Asked(t.Context(), image); err != nil || got.Count != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAnAskingThatSaysNothingIsNotRecorded(t *testing.T) {
	good := review.Asking{Digest: digestOf("a"), Asked: review.Asked{Count: 1, First: review.Asker{At: noon}, Last: review.Asker{At: noon}}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for law, change := range map[string]func(*review.Asking){
		"nobody": func(a *review.Asking) { a.Count = 0 }, "of nothing": func(a *review.Asking) { a.Digest = "" },
		"at no time": func(a *review.Asking) { a.Last.At = time.Time{} },
	} {
		bad := good
		if change(&bad); bad.Check() == nil {
			t.Errorf("%s is recorded", law)
		}
	}
}
