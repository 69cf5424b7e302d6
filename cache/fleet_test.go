package cache

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/cache/cachetest"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/seal"
)

// slow is how leases go where the test, and not the time, is to end them.
func slow() patience {
	p := patient
	p.lease, p.poll = time.Minute, time.Minute
	return p
}

// acquire returns the lease on "work", or fails the test.
func acquire(t *testing.T, f *Fleet) *Lease {
	t.Helper()
	l, err := f.Acquire(t.Context(), "work")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Release)
	return l
}

// listenTo has f listen, and returns what it hears once it does.
func listenTo(t *testing.T, f *Fleet) (connected <-chan struct{}, heard <-chan string) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	connections, messages, done := make(chan struct{}, 100), make(chan string, 100), make(chan struct{})
	go func() {
		defer close(done)
		f.Listen(ctx, Listener{
			Connected: func() { connections <- struct{}{} },
			Heard:     func(topic string, payload []byte) { messages <- topic + " " + string(payload) },
		})
	}()
	t.Cleanup(func() {
		stop()
		<-done
	})
	receive(t, connections)
	return connections, messages
}

// receive waits for something that must come.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case got := <-from:
		return got
	case <-time.After(time.Minute):
		t.Fatal("waited in vain")
		panic("unreachable")
	}
}

func TestALeaseIsHeldByOne(t *testing.T) {
	s := startRedis(t)
	a, b := openOn(t, s.url(), time.Now, slow()).Fleet(), openOn(t, s.url(), time.Now, slow()).Fleet()
	listenTo(t, b)
	held := acquire(t, a)
	t.Run("and waited for by the others no longer than they want to", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := b.Acquire(ctx, "work"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want that the deadline is over", err)
		}
		if len(b.waiting) > 0 {
			t.Errorf("%d are still said to wait", len(b.waiting))
		}
	})
	t.Run("another one is another one's", func(t *testing.T) {
		l, err := b.Acquire(t.Context(), "other work")
		if err != nil {
			t.Fatal(err)
		}
		l.Release()
	})
	t.Run("and passed on as soon as it is given up", func(t *testing.T) { // the word is all that can end the wait within a minute
		got := make(chan error, 1)
		go func() {
			l, err := b.Acquire(t.Context(), "work")
			if err == nil {
				l.Release()
			}
			got <- err
		}()
		held.Release()
		held.Release() // once more changes nothing
		if err := receive(t, got); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-held.Lost():
		t.Error("it was lost on the way")
	default:
	}
}

func TestALeaseOutlivesItsTimeAndAFlush(t *testing.T) {
	s := startRedis(t)
	a := openOn(t, s.url(), time.Now, patient).Fleet()
	held := acquire(t, a)
	for range 2 {
		if err := s.client(t).FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); s.client(t).Exists(t.Context(), held.key).Val() == 0; {
			if time.Now().After(deadline) {
				t.Fatal("the lease does not come back")
			}
		}
	}
	select {
	case <-held.Lost():
		t.Error("it was lost")
	default:
	}
}

func TestWhoDiesLosesTheLease(t *testing.T) {
	s := startRedis(t)
	for law, then := range map[string]func(l *Lease){
		"because Redis forgets it": func(*Lease) {},
		"even if somebody has Redis keep it": func(l *Lease) {
			if err := s.client(t).Persist(t.Context(), l.key).Err(); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(law, func(t *testing.T) {
			a, b := openOn(t, s.url(), time.Now, patient).Fleet(), openOn(t, s.url(), time.Now, patient).Fleet()
			dying := acquire(t, a)
			dying.stop()
			dying.beating.Wait()
			then(dying)
			acquire(t, b).Release()
		})
	}
}

func TestAHolderLearnsThatItIsNone(t *testing.T) {
	s := startRedis(t)
	a, b := openOn(t, s.url(), time.Now, patient).Fleet(), openOn(t, s.url(), time.Now, patient).Fleet()
	held := acquire(t, a)
	if err := s.client(t).Del(t.Context(), held.key).Err(); err != nil {
		t.Fatal(err)
	}
	// Either it is back before the other looks, or the other has it now.
	ctx, cancel := context.WithTimeout(t.Context(), 2*patient.lease)
	defer cancel()
	if l, err := b.Acquire(ctx, "work"); err == nil {
		receive(t, held.Lost())
		l.Release()
	}
	held.Release()
	t.Run("when Redis is gone", func(t *testing.T) {
		held := acquire(t, openOn(t, s.url(), time.Now, patient).Fleet())
		s.kill()
		receive(t, held.Lost())
	})
}

func TestNobodyWaitsForAForgedLease(t *testing.T) {
	s := startRedis(t)
	a := openOn(t, s.url(), time.Now, slow()).Fleet()
	elsewhere, err := a.Acquire(t.Context(), "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Release()
	copied, err := s.client(t).Get(t.Context(), elsewhere.key).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"somebody", copied, ""} {
		if err := s.client(t).Set(t.Context(), "tidewaiter:v1:lease:work", value, 0).Err(); err != nil {
			t.Fatal(err)
		}
		l, err := a.Acquire(t.Context(), "work")
		if err == nil { // an empty one is none
			l.Release()
		} else if !errors.Is(err, seal.ErrBroken) {
			t.Errorf("%q: got %v, want seal.ErrBroken", value, err)
		}
	}
	if err := errors.Join(s.client(t).Del(t.Context(), "tidewaiter:v1:lease:work").Err(), s.client(t).LPush(t.Context(), "tidewaiter:v1:lease:work", "x").Err()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Acquire(t.Context(), "work"); err == nil {
		t.Error("a list was taken for a lease")
	}
}

// TestNobodyWaitsForLeasesThatTakeTurns has somebody put back what two replicas held one after the other.
func TestNobodyWaitsForLeasesThatTakeTurns(t *testing.T) {
	s := startRedis(t)
	f := openOn(t, s.url(), time.Now, patient).Fleet()
	var held [2][]byte
	var l *Lease
	for i := range held {
		l = acquire(t, f)
		value, err := s.client(t).Get(t.Context(), l.key).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		held[i] = value
		l.Release()
	}
	other := life{ttl: patient.lease}
	for i, look := range []struct {
		at   []byte
		want error
	}{{held[0], nil}, {held[0], nil}, {held[1], nil}, {held[0], errReplayed}} {
		if err := other.see(l, look.at); !errors.Is(err, look.want) {
			t.Errorf("look %d: got %v, want %v", i+1, err, look.want)
		}
	}
}

func TestWhoWaitsAMomentOnlyOutlivesTheDeadToo(t *testing.T) {
	s := startRedis(t)
	a, b := openOn(t, s.url(), time.Now, patient).Fleet(), openOn(t, s.url(), time.Now, patient).Fleet()
	dying := acquire(t, a)
	dying.stop()
	dying.beating.Wait()
	if err := s.client(t).Persist(t.Context(), dying.key).Err(); err != nil {
		t.Fatal(err)
	}
	for range 20 { // together as long as several leases last, each no longer than a part of one
		ctx, cancel := context.WithTimeout(t.Context(), patient.lease/4)
		l, err := b.Acquire(ctx, "work")
		cancel()
		if err == nil {
			l.Release()
			return
		}
	}
	t.Error("what lies in Redis for ever keeps the lease")
}

func TestWithoutRedisEverybodyIsAlone(t *testing.T) {
	f := inMemory(t, Options{}).Fleet()
	acquire(t, f)
	acquire(t, f).Release()
	if err := f.Announce(t.Context(), "topic", nil); err != nil || !f.Turn(t.Context(), "work", time.Hour) || f.Shared() {
		t.Errorf("got %v, want that nobody else is thought of", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f.Listen(ctx, Listener{})
	t.Run("and while it does not answer, too", func(t *testing.T) {
		f := openOn(t, "redis://127.0.0.1:1", time.Now, patient).Fleet()
		if _, err := f.Acquire(t.Context(), "work"); err == nil {
			t.Error("got a lease")
		}
		if !f.Turn(t.Context(), "work", time.Hour) {
			t.Error("got no turn")
		}
		if err := f.Announce(t.Context(), "topic", nil); err == nil {
			t.Error("announced")
		}
	})
}

func TestARedisThatNeverAnswersHoldsUpThreeAtMost(t *testing.T) {
	silent := listen(t, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	p := patient
	p.answer, p.call = 50*time.Millisecond, 50*time.Millisecond
	f := openOn(t, silent.url(), (&cachetest.Clock{}).Now, p).Fleet()
	for n := range 10 {
		_, err := f.Acquire(t.Context(), "work")
		if err == nil || n >= failuresToOpen && !errors.Is(err, ErrUnavailable) {
			t.Errorf("%d: got %v", n, err)
		}
	}
}

func TestWorkIsDoneInTurn(t *testing.T) {
	s := startRedis(t)
	clock := &cachetest.Clock{}
	a, b := openOn(t, s.url(), clock.Now, patient).Fleet(), openOn(t, s.url(), clock.Now, patient).Fleet()
	turn := func(f *Fleet) bool { return f.Turn(t.Context(), "work", time.Hour) }
	if got := []bool{turn(a), turn(b), turn(a), a.Turn(t.Context(), "other", time.Hour)}; !cmp.Equal(got, []bool{true, false, false, true}) {
		t.Errorf("got %v, want the first only, and other work for itself", got)
	}
	clock.Pass(time.Hour)
	if !turn(b) { // by its own clock, whatever Redis keeps
		t.Error("got no turn an hour later")
	}
	if err := s.client(t).Set(t.Context(), "tidewaiter:v1:turn:work", "forged", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if !turn(a) {
		t.Error("a forged turn was believed")
	}
}

func TestAnnouncements(t *testing.T) {
	s := startRedis(t)
	a, b := openOn(t, s.url(), (&cachetest.Clock{}).Now, patient), openOn(t, s.url(), (&cachetest.Clock{}).Now, patient)
	connected, heardB := listenTo(t, b.Fleet())
	_, heardA := listenTo(t, a.Fleet())
	say := func(f *Fleet, topic, payload string) {
		t.Helper()
		if err := f.Announce(t.Context(), topic, []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("are heard by the others, in order, and not by oneself", func(t *testing.T) {
		say(a.Fleet(), "first", "1")
		say(a.Fleet(), "second", "2")
		say(b.Fleet(), "third", "3")
		if got := []string{receive(t, heardB), receive(t, heardB), receive(t, heardA)}; !cmp.Equal(got, []string{"first 1", "second 2", "third 3"}) {
			t.Errorf("got %q", got)
		}
	})
	t.Run("of others are not believed", func(t *testing.T) {
		for _, forged := range []string{"", `{"topic":"forged"}`, strings.Repeat("x", maxAnnouncementBytes)} {
			if err := s.client(t).Publish(t.Context(), channel, forged).Err(); err != nil {
				t.Fatal(err)
			}
		}
		say(a.Fleet(), "after", "")
		if got := receive(t, heardB); got != "after " {
			t.Errorf("got %q", got)
		}
	})
	t.Run("that are too large are refused", func(t *testing.T) {
		if err := a.Fleet().Announce(t.Context(), "large", make([]byte, maxAnnouncementBytes)); !errors.Is(err, oci.ErrTooLarge) {
			t.Errorf("got %v, want oci.ErrTooLarge", err)
		}
	})
	t.Run("come by the hundred", func(t *testing.T) {
		for range 300 {
			say(a.Fleet(), "many", "")
			receive(t, heardB)
		}
	})
	t.Run("are missed while Redis is away, which is made up for by forgetting", func(t *testing.T) {
		key, v := cachetest.NewVerdict("a")
		put(t, b, key, v)
		s.kill()
		s.start(t)
		receive(t, connected)
		if _, _, ok := b.memory.get(key); ok {
			t.Error("the verdict is still in memory")
		}
		for deadline := time.Now().Add(time.Minute); a.Fleet().Announce(t.Context(), "back", nil) != nil; {
			if time.Now().After(deadline) {
				t.Fatal("nothing can be announced")
			}
		}
		if got := receive(t, heardB); got != "back " {
			t.Errorf("got %q", got)
		}
	})
}

func TestForget(t *testing.T) {
	vs := inMemory(t, Options{Now: (&cachetest.Clock{}).Now})
	a, va := cachetest.NewVerdict("a")
	b, vb := cachetest.NewVerdict("b")
	put(t, vs, a, va)
	put(t, vs, b, vb)
	vs.Forget(va.Candidate())
	if got := []bool{remembers(t, vs, a), remembers(t, vs, b)}; !cmp.Equal(got, []bool{false, vb.Candidate() != va.Candidate()}) {
		t.Errorf("remembered of a, b: %v", got)
	}
}

func FuzzDecodeAnnouncement(f *testing.F) {
	f.Add([]byte(`{"from":"A","topic":"verdict","payload":"e30="}`))
	f.Add([]byte(`{"from":"A","topic":"verdict","more":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if a, err := decodeAnnouncement(raw); err != nil && (a.Topic != "" || a.Payload != nil) {
			t.Fatalf("got %+v and %v", a, err)
		}
	})
}
