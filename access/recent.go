package access

import "container/list"

// recent is a map that holds a bounded number of entries and forgets the one used longest ago. It is not safe for concurrent use.
type recent[K comparable, V any] struct {
	max     int
	entries map[K]*list.Element
	order   *list.List // of entry[K, V], the latest used in front
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](most int) *recent[K, V] {
	return &recent[K, V]{max: most, entries: map[K]*list.Element{}, order: list.New()}
}

func (r *recent[K, V]) get(key K) (V, bool) {
	e, ok := r.entries[key]
	if !ok {
		var none V
		return none, false
	}
	r.order.MoveToFront(e)
	return e.Value.(entry[K, V]).value, true
}

func (r *recent[K, V]) put(key K, value V) {
	if e, ok := r.entries[key]; ok {
		e.Value = entry[K, V]{key, value}
		r.order.MoveToFront(e)
		return
	}
	r.entries[key] = r.order.PushFront(entry[K, V]{key, value})
	if r.order.Len() > r.max {
		r.remove(r.order.Back().Value.(entry[K, V]).key)
	}
}

func (r *recent[K, V]) remove(key K) {
	if e, ok := r.entries[key]; ok {
		r.order.Remove(e)
		delete(r.entries, key)
	}
}
